"""compare.py RUN_MODEL DIR [--seeds N] [--families NAME...]: models of transformers, and of reference.py in double, give
the same logits, losses and gradients here, and what is exported loads in transformers with the same weights and logits."""
import argparse
import pathlib
import subprocess
import sys

try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    import models
    import reference
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


def compare(ours, expected, lengths, exact):
    """Text with the largest differences: absolute, and of gradients relative to the norm of each tensor."""
    global failures
    logits, losses, gradients = expected
    mask = torch.tensor([[t < n for t in range(logits.shape[1])] for n in lengths])
    theirs = {f"grad.{name}": g for name, g in gradients.items()}
    if "grad.lm_head.weight" in theirs and "grad.lm_head.weight" not in ours:
        del theirs["grad.lm_head.weight"]  # tied
    names = {n for n in ours if n.startswith("grad.")}
    if names != set(theirs):
        print("names differ:", sorted(names ^ set(theirs))[:8])
        failures += 1
    worst = max((((ours[n] - theirs[n]).norm() / (theirs[n].norm() + 1e-30)).item(), n) for n in names & set(theirs))
    return "; ".join([
        check("logits", (ours["logits"] - logits)[mask].abs().max().item(), 1e-9 if exact else 3e-5),
        check("losses", (ours["losses"] - losses).abs().max().item(), 1e-9 if exact else 1e-5),
        check("gradients", worst[0], 1e-9 if exact else 1e-5) + f" ({worst[1]})"])


def fuse(directory):
    """The same directory with the experts of a layer in two tensors, as version 5 of transformers holds them."""
    tensors, experts, fused = load_file(directory / "model.safetensors"), {}, {}
    names = {"gate_proj": (0, 0), "up_proj": (0, 1), "down_proj": (1, 0), "w1": (0, 0), "w3": (0, 1), "w2": (1, 0)}
    for name, tensor in tensors.items():
        stem, found, rest = name.partition(".experts.")
        if not found:
            fused[name] = tensor
            continue
        expert, kind, _ = rest.split(".")
        down, half = names[kind]
        stem = stem.replace("block_sparse_moe", "mlp") + ".experts." + ("down_proj" if down else "gate_up_proj")
        experts.setdefault(stem, {}).setdefault(int(expert), {})[half] = tensor
    for stem, parts in experts.items():
        fused[stem] = torch.stack([torch.cat([parts[e][h] for h in sorted(parts[e])]) for e in range(len(parts))])
    for stored, in_memory in ((".input_linear.weight", ".experts.gate_up_proj"), (".router.layer.weight", ".router.weight"),
                              (".output_linear.weight", ".experts.down_proj")):
        fused = {n.replace(stored, in_memory): t for n, t in fused.items()}
    save_file(fused, directory / "model.safetensors")


for family in args.families:
    for seed in range(args.seeds):
        for scalar in ("float", "double"):
            directory = pathlib.Path(args.dir) / f"{family.replace(', ', '-').replace(' ', '_')}-{seed}-{scalar}"
            model, tokens, lengths = models.make(family, seed)
            models.write(directory, model, tokens, lengths)
            if scalar == "double":
                model.double()
            subprocess.run([args.run_model, scalar, directory, directory / "out.safetensors"], check=True)
            ours = load_file(directory / "out.safetensors")
            gpt2, only_here = family == "gpt2", isinstance(model, reference.Model)
            expected = models.compute(model, tokens, lengths)
            # transformers computes norms, softmax and rotary angles in float; GPT-2 has only a softmax of scores.
            text = compare(ours, expected, lengths, scalar == "double" and (gpt2 or only_here))
            print(f"{family} seed {seed} {scalar}: largest logit {expected[0].abs().max():.1f}; {text}", flush=True)
            if scalar == "double" and not gpt2 and not only_here:
                exact = reference.Model.read(directory).double().compute(tokens, lengths)
                print(f"  reference in double: {compare(ours, exact, lengths, True)}")
            if scalar == "double":
                continue
            if not only_here:
                again = transformers.AutoModelForCausalLM.from_pretrained(directory / "exported")
                same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
                again.config._attn_implementation = again.config._experts_implementation = "eager"
                same_logits = torch.equal(model(tokens).logits, again.eval()(tokens).logits)
                if not (same and same_logits):
                    print(f"  exported: weights {'equal' if same else 'DIFFER'}, logits {'equal' if same_logits else 'DIFFER'}")
                    failures += 1
            if seed > 0:
                continue
            # Every other form has the bits of the first one, at its precision.
            fuse(directory)
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                tensors = load_file(directory / "model.safetensors")
                save_file({n: t.to(dtype) for n, t in tensors.items()}, directory / "model.safetensors")
                subprocess.run([args.run_model, scalar, directory, directory / "fused.safetensors"], check=True)
                found = load_file(directory / "fused.safetensors")
                if dtype == torch.float32 and not all(torch.equal(found[n], t) for n, t in ours.items()):
                    print("  experts in one tensor: DIFFERENT")
                    failures += 1
                exported = {}
                for shard in (directory / "exported").glob("*.safetensors"):
                    exported |= load_file(shard)
                stored = load_file(directory / "model.safetensors")
                wrong = [n for n, t in exported.items() if n in stored and not torch.equal(t, stored[n].float())]
                if wrong:
                    print(f"  {dtype}: weights differ: {wrong[:4]}")
                    failures += 1
print("failures:", failures)
sys.exit(failures > 0)
