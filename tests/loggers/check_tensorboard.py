"""check_tensorboard.py WRITE_LOGS DIR: TensorBoard reads the event file and finds the numbers of metrics.jsonl."""
import json
import math
import pathlib
import subprocess
import sys

try:
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util
except ImportError as missing:
    print(f"skipped: this Python has no TensorBoard ({missing})")
    sys.exit(77)

write_logs, folder = sys.argv[1], pathlib.Path(sys.argv[2]) / "run"
folder.mkdir()
subprocess.run([write_logs, folder, "12"], check=True)
subprocess.run([write_logs, folder, "20", "10"], check=True)  # goes on after step 10

everything = {kind: 0 for kind in (event_accumulator.SCALARS, event_accumulator.TENSORS, event_accumulator.HISTOGRAMS)}
events = event_accumulator.EventAccumulator(str(folder), size_guidance=everything)
events.Reload()
records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def close(a, b):
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= 1e-6 * max(1.0, abs(b))


def same(tag, kind, value_of):
    expected = [(r["step"], float(value_of(r))) for r in records if r["kind"] == kind]
    found = [(e.step, e.value) for e in events.Scalars(tag)]
    assert [s for s, _ in found] == [s for s, _ in expected], (tag, found)
    assert all(close(a, b) for (_, a), (_, b) in zip(found, expected)), (tag, found, expected)
    return len(found)


numbers = same("loss/step", "train", lambda r: r["loss"])
numbers += same("router loss/balance", "train", lambda r: r["balance_loss"])
numbers += same("training/learning rate", "train", lambda r: r["learning_rate"])
numbers += same("training/gradient norm", "train", lambda r: r["gradient_norm"])  # one is NaN
numbers += same("speed/tokens per second", "train", lambda r: r["tokens_per_second"])
numbers += same("loss/train", "eval", lambda r: r["train_loss"])
numbers += same("loss/val", "eval", lambda r: r["val_loss"])
for i, layer in enumerate((0, 2)):
    for tag, name in (("largest load over mean", "max_over_mean"), ("entropy of the load", "entropy"),
                      ("dead", "dead"), ("dropped", "dropped")):
        numbers += same(f"experts/layer {layer} {tag}", "train", lambda r: r[name][i])
    expected = [r["load"][i] for r in records if r["kind"] == "train"]
    found = [e.histogram_value for e in events.Histograms(f"experts/layer {layer} load")]
    assert [list(h.bucket) for h in found] == expected, found
    assert list(found[0].bucket_limit) == [0.5, 1.5, 2.5, 3.5]
samples = [tensor_util.make_ndarray(e.tensor_proto).item().decode() for e in events.Tensors("sample")]
assert samples == [f"    First line of {s}\n      <b>second</b>\n" for s in (5, 10, 15, 20)], samples
print(f"TensorBoard read {numbers} scalars, 40 histograms and {len(samples)} texts as written")
