#!/usr/bin/env python3
"""Writes rotary.safetensors beside this file: python3 tests/golden/make_rotary.py (a second, needs transformers).

Scaled rotary frequencies of transformers (ROPE_INIT_FUNCTIONS), which computes them in float32: of each case NAME
the tensor NAME [r/2 + 1], the frequencies and, last, the factor of rotated features. r = 64; the cases are those of
CASES, and a test has them, too.
"""
import pathlib

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from make_golden import write_safetensors

R = 64
CASES = {
    "linear": dict(rope_type="linear", rope_theta=1e4, factor=4.0),
    "yarn": dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=2048),
    "yarn_narrow": dict(rope_type="yarn", rope_theta=1e6, factor=16.0, original_max_position_embeddings=512,
                        beta_fast=4.0, beta_slow=2.0, attention_factor=1.25),
    "llama3": dict(rope_type="llama3", rope_theta=5e5, factor=8.0, original_max_position_embeddings=8192,
                   low_freq_factor=1.0, high_freq_factor=4.0),
}


def main():
    tensors = {}
    for name, parameters in CASES.items():
        context = int(parameters.get("original_max_position_embeddings", 2048) * parameters["factor"])
        config = LlamaConfig(hidden_size=2 * R, num_attention_heads=2, max_position_embeddings=context,
                             rope_parameters=dict(parameters))
        frequencies, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
        tensors[name] = torch.cat([frequencies.double(), torch.tensor([factor], dtype=torch.float64)])
    write_safetensors(pathlib.Path(__file__).with_name("rotary.safetensors"), tensors,
                      {"format": "pt", "torch": torch.__version__})


if __name__ == "__main__":
    main()
