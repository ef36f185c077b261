"""Models of transformers with what they compute: python3 make_huggingface.py FAMILY... (torch 2.15, transformers 5.24)

Writes huggingface/FAMILY, of DeepSeek-MoE by reference.py: config.json, model.safetensors in BF16, batch.safetensors with ids, and expected.safetensors
with logits and losses in double, and for each gradient its norm and its product with the vector sin(1), sin(2), ...
"""
import copy
import pathlib
import sys

import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).resolve().parent
sys.path.append(str(here.parent / "huggingface"))
import models  # noqa: E402

for family in sys.argv[1:]:
    directory = here / "huggingface" / family
    model, tokens, lengths = models.make(family, 1, length=9 if family in models.SMALL else 12)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16())
    stored = copy.deepcopy(model).bfloat16()  # that also rounds the rotary angles
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):  # which stays F32 in files
            stored.get_submodule(name.rsplit(".", 1)[0]).e_score_correction_bias = buffer.clone()
    models.write(directory, stored, tokens, lengths)
    logits, losses, gradients = models.compute(model.double(), tokens, lengths)
    expected = {"logits": logits, "losses": losses.double()}
    for name, g in gradients.items():
        g = g.double().flatten()
        expected["grad." + name] = torch.stack([g.norm(), g @ torch.sin(torch.arange(1, g.numel() + 1).double())])
    save_file(expected, directory / "expected.safetensors")
