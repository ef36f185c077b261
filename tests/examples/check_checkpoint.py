"""check_checkpoint.py TRAIN DIR: Python's safetensors reads the files of a checkpoint that TRAIN wrote."""
import json
import pathlib
import subprocess
import sys

try:
    import numpy as np
    from safetensors import safe_open
except ImportError as missing:
    print(f"skipped: this Python has no safetensors ({missing})")
    sys.exit(77)

train, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
text = folder / "text.txt"
text.write_text("To be, or not to be: that is the question.\n" * 300)
subprocess.run([train, "--run", folder / "run", "--data", text, "--steps", "5", "--no-peak"], check=True,
               capture_output=True)
(checkpoint,) = (folder / "run" / "checkpoints").iterdir()


def read(name):
    with safe_open(checkpoint / name, "np") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


weights, model = read("model.safetensors")
moments, optimizer = read("optimizer.safetensors")
assert len(weights) > 30 and all(np.isfinite(w).all() for w in weights.values())
assert {key.split(".", 1)[1] for key in moments} == set(weights), "moments are under the paths of their weights"
for key, moment in moments.items():
    assert moment.shape == weights[key.split(".", 1)[1]].shape and np.isfinite(moment).all(), key
assert model["moegpt.model"].startswith("GPT<Config{") and model["moegpt.tokenizer"].startswith("characters:")
assert all(0 <= int(steps) <= 5 for steps in optimizer["moegpt.steps"].split())
assert json.loads((checkpoint / "state.json").read_text())["step"] == 5
final, _ = read("../../model.safetensors")
assert all((final[key] == weights[key]).all() for key in weights), "the model at the end is that of the last checkpoint"
print(f"{len(weights)} weights and {len(moments)} moments read")
