#!/usr/bin/env python3
"""Writes local_attention.safetensors beside this file: python3 tests/golden/make_local_attention.py (a second).

Attention under masks of windows, blocks and strides, and its gradients: PyTorch's scaled_dot_product_attention with
a Boolean mask, in float64. The same torch gives the same bytes.

q, d_o [T,H*d]   k, v [T,Hkv*d]   T = 70 tokens, H = 2 heads that share Hkv = 1 key/value head, d = 3, scale 0.7
Of each mask NAME: NAME.o, NAME.dq [T,H*d], NAME.dk, NAME.dv [T,Hkv*d]. A query at p attends to a key at j:
  window      |p - j| < 9
  block       p // 16 = j // 16
  two_blocks  p // 16 - j // 16 in {0, 1}
  stride      |p - j| < 5 or (p - j) % 7 = 0
  blocks_and_stride  p // 16 = j // 16 or (p - j) % 5 = 0
and, in NAME.causal, only if j <= p.
"""
import pathlib

import torch
from torch.nn import functional as F

from make_golden import write_safetensors

T, H, HKV, D, SCALE = 70, 2, 1, 3, 0.7


def heads(x):
    return x.reshape(T, -1, D).transpose(0, 1)


def main():
    torch.manual_seed(5)
    q, d_o = torch.randn(T, H * D), torch.randn(T, H * D)
    k, v = torch.randn(T, HKV * D), torch.randn(T, HKV * D)
    tensors = {"q": q, "k": k, "v": v, "d_o": d_o}
    p, j = torch.arange(T)[:, None], torch.arange(T)[None, :]
    masks = {
        "window": (p - j).abs() < 9,
        "block": p // 16 == j // 16,
        "two_blocks": (p // 16 - j // 16 == 0) | (p // 16 - j // 16 == 1),
        "stride": ((p - j).abs() < 5) | ((p - j) % 7 == 0),
        "blocks_and_stride": (p // 16 == j // 16) | ((p - j) % 5 == 0),
    }
    for name, full in masks.items():
        for suffix, mask in (("", full), (".causal", full & (j <= p))):
            inputs = [x.clone().requires_grad_() for x in (q, k, v)]
            shared = [heads(x).repeat_interleave(H // HKV, 0) for x in inputs[1:]]
            o = F.scaled_dot_product_attention(heads(inputs[0]), *shared, attn_mask=mask, scale=SCALE)
            o = o.transpose(0, 1).reshape(T, H * D)
            o.backward(d_o)
            for part, x in zip(("o", "dq", "dk", "dv"), (o.detach(), *(i.grad for i in inputs))):
                tensors[f"{name}{suffix}.{part}"] = x
    write_safetensors(pathlib.Path(__file__).with_name("local_attention.safetensors"), tensors,
                      {"format": "pt", "torch": torch.__version__})


if __name__ == "__main__":
    main()
