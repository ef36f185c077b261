#!/usr/bin/env python3
"""Writes adapters.safetensors beside this file: python3 tests/golden/make_adapters.py (a second).

One step of low-rank adaptation (Hu et al. 2021) in PyTorch in float64: y = W x + b + (alpha / rank) B (A x), as
PEFT's linear layer computes it, with dropout 0. Every tensor F64; the same torch gives the same bytes.

N = 7 tokens, 6 inputs, 5 outputs, rank 2, alpha 3
x [N,6], weight [5,6], bias [5], a [2,6], b [5,2], dy [N,5]   drawn
y [N,5]                                                       forward
d.x, d.weight, d.bias, d.a, d.b                               gradients of sum(y * dy)
step.a, step.b      after one step of AdamW on a and b alone: lr 1e-2, betas 0.9 0.999, eps 1e-8, decay 0.01
merged [5,6]        weight + (alpha / rank) b a, of the drawn tensors
"""
import pathlib

import torch
from torch.nn import functional as F

from make_golden import write_safetensors

TOKENS, INPUTS, OUTPUTS, RANK, ALPHA = 7, 6, 5, 2, 3.0


def main():
    generator = torch.Generator().manual_seed(1)
    shapes = {"x": (TOKENS, INPUTS), "weight": (OUTPUTS, INPUTS), "bias": (OUTPUTS,), "a": (RANK, INPUTS),
              "b": (OUTPUTS, RANK)}
    leaf = {name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in shapes.items()}
    dy = torch.randn((TOKENS, OUTPUTS), generator=generator)
    tensors = {name: tensor.detach().clone() for name, tensor in leaf.items()} | {"dy": dy}
    scale = ALPHA / RANK
    y = F.linear(leaf["x"], leaf["weight"], leaf["bias"]) + F.linear(F.linear(leaf["x"], leaf["a"]), leaf["b"]) * scale
    (y * dy).sum().backward()
    tensors["y"] = y.detach()
    tensors |= {f"d.{name}": tensor.grad for name, tensor in leaf.items()}
    torch.optim.AdamW([leaf["a"], leaf["b"]], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01).step()
    tensors |= {"step.a": leaf["a"].detach(), "step.b": leaf["b"].detach()}
    tensors["merged"] = tensors["weight"] + scale * tensors["b"] @ tensors["a"]
    path = pathlib.Path(__file__).with_name("adapters.safetensors")
    write_safetensors(path, tensors, {"format": "pt", "torch": torch.__version__})
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
