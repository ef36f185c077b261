"""compare.py RUN_MODEL DIR [--seeds N]: models of transformers give the same logits, losses and gradients here,
and what is exported loads in transformers with the same weights and logits."""
import argparse
import pathlib
import subprocess
import sys

try:
    import torch
    import transformers
    from safetensors.torch import load_file

    import models
except ImportError as missing:
    print(f"skipped: this Python has no torch and transformers ({missing})")
    sys.exit(77)

parser = argparse.ArgumentParser()
parser.add_argument("run_model")
parser.add_argument("dir")
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--families", nargs="*", default=list(models.CONFIGS))
args = parser.parse_args()
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
failures = 0


def check(what, found, limit):
    global failures
    failures += not found <= limit
    return f"{what} {found:.1e}" + ("" if found <= limit else f" (limit {limit:.0e})")


for family in args.families:
    for seed in range(args.seeds):
        for scalar in ("float", "double"):
            directory = pathlib.Path(args.dir) / f"{family}-{seed}-{scalar}"
            model, tokens, lengths = models.make(family, seed)
            models.write(directory, model, tokens, lengths)
            if scalar == "double":
                model.double()
            logits, losses, gradients = models.compute(model, tokens, lengths)
            subprocess.run([args.run_model, scalar, directory, directory / "out.safetensors"], check=True)
            ours = load_file(directory / "out.safetensors")
            mask = torch.tensor([[t < n for t in range(tokens.shape[1])] for n in lengths])
            # transformers computes norms, softmax and rotary angles in float; GPT-2 has only a softmax of scores.
            exact = scalar == "double" and family == "gpt2"
            text = [check("logits", (ours["logits"] - logits)[mask].abs().max().item(), 1e-9 if exact else 3e-5),
                    check("losses", (ours["losses"] - losses).abs().max().item(), 1e-9 if exact else 1e-5)]
            theirs = {f"grad.{name}": g for name, g in gradients.items()}
            if "grad.lm_head.weight" in theirs and "grad.lm_head.weight" not in ours:
                del theirs["grad.lm_head.weight"]
            names = {n for n in ours if n.startswith("grad.")}
            if names != set(theirs):
                print("names differ:", sorted(names ^ set(theirs))[:8])
                failures += 1
            worst = max((((ours[n] - theirs[n]).norm() / (theirs[n].norm() + 1e-30)).item(), n) for n in names & set(theirs))
            text.append(check("gradients", worst[0], 1e-9 if exact else 1e-5) + f" ({worst[1]})")
            print(f"{family} seed {seed} {scalar}: largest logit {logits.abs().max():.1f};", "; ".join(text), flush=True)
            if scalar == "float":
                again = transformers.AutoModelForCausalLM.from_pretrained(directory / "exported")
                same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
                again.config._attn_implementation = again.config._experts_implementation = "eager"
                same_logits = torch.equal(model(tokens).logits, again.eval()(tokens).logits)
                if not (same and same_logits):
                    print(f"  exported: weights {'equal' if same else 'DIFFER'}, logits {'equal' if same_logits else 'DIFFER'}")
                    failures += 1
print("failures:", failures)
sys.exit(failures > 0)
