#!/usr/bin/env python3
"""Writes distillation.safetensors beside this file: python3 tests/golden/make_distillation.py (a second).

The distillation loss of Hinton, Vinyals, Dean 2015 and its gradient by the student's logits, by PyTorch's functions in
float64. Every tensor F64; the same torch gives the same bytes.

logits, teacher [N,V]   N = 9 tokens, V = 21 vocabulary entries; a student's and a teacher's logits
targets [N]             ids; two of them are -100, which F.cross_entropy ignores, and so does the soft loss
loss.I [1], d.I [N,V]   case I of CASES: (1 - weight) cross_entropy + weight T^2 kl_div, means over the other targets
divergence.I [1]        kl_div alone
"""
import pathlib

import torch
from torch.nn import functional as F

from make_golden import write_safetensors

CASES = ((1.0, 0.5), (2.5, 0.9), (4.0, 1.0), (0.7, 0.25), (3.0, 0.0))  # temperature T, weight


def main():
    generator = torch.Generator().manual_seed(15)
    logits = 2 * torch.randn(9, 21, generator=generator)
    teacher = 3 * torch.randn(9, 21, generator=generator)
    targets = torch.randint(0, 21, (9,), generator=generator)
    targets[2] = targets[6] = -100
    tensors = {"logits": logits, "teacher": teacher, "targets": targets.double()}
    keep = targets >= 0
    for i, (temperature, weight) in enumerate(CASES):
        z = logits.clone().requires_grad_()
        soft = F.kl_div((z[keep] / temperature).log_softmax(-1), (teacher[keep] / temperature).softmax(-1),
                        reduction="batchmean")
        loss = (1 - weight) * F.cross_entropy(z, targets) + weight * temperature**2 * soft
        tensors[f"loss.{i}"], tensors[f"divergence.{i}"] = loss.detach().view(1), soft.detach().view(1)
        tensors[f"d.{i}"], = torch.autograd.grad(loss, z)
    path = pathlib.Path(__file__).with_name("distillation.safetensors")
    write_safetensors(path, tensors, {"format": "pt", "torch": torch.__version__})
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
