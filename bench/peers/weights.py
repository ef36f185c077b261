"""Reads the weights of a dense GPT-2 that the library saved."""
import json
import re

import numpy

MODEL = re.compile(r"GPT<Config\{\.vocab = \d+, \.context = \d+, \.dim = \d+, \.layers = \d+, \.heads = (\d+)"
                   r"(?:, \.hidden = \d+)?, \.attention_bias = true(?:, \.tied = true)?\}, Dense>")


class GPT2:
    """Of a safetensors file: its extents, and weights by path, float32, mapped from the file until they are used.
    ValueError unless it holds a model of GPT-2's kind."""

    def __init__(self, path):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > 10**8:
                raise ValueError(f"{path} is no safetensors file")
            header = json.loads(file.read(size))
        metadata = header.pop("__metadata__", {})
        model = MODEL.fullmatch(metadata.get("moegpt.model", ""))
        if not model or float(metadata.get("moegpt.options.attention_scale", 0)) != 0:
            raise ValueError(f"{path} holds {metadata.get('moegpt.model', 'no model of moegpt')}, expected a dense "
                             "GPT-2: learned positions, LayerNorm, GELU, biases everywhere but in the head")
        wide = [name for name, tensor in header.items() if tensor["dtype"] != "F32"]
        if wide:
            raise ValueError(f"{path}: {wide[0]} is {header[wide[0]]['dtype']}, expected F32")
        self.weights = {
            name: numpy.memmap(path, numpy.float32, "r", 8 + size + tensor["data_offsets"][0], tuple(tensor["shape"]))
            for name, tensor in header.items()}
        self.heads = int(model[1])
        self.norm_epsilon = float(metadata.get("moegpt.options.norm_epsilon", 1e-5))
        self.vocab, self.dim = self.weights["token_embedding.weight"].shape
        self.context = len(self.weights["position_embedding.weight"])
        self.hidden = len(self.weights["blocks.0.ffn.up.weight"])
        self.layers = sum(name.endswith("ffn.up.weight") for name in self.weights)

    def pair(self, path):
        """Weight and bias of a layer or norm."""
        return self.weights[path + ".weight"], self.weights[path + ".bias"]

    def qkv(self, layer):
        """Query, key and value as one map: weight [3 dim, dim] and bias [3 dim]."""
        maps = [self.pair(f"blocks.{layer}.attention.{name}") for name in ("query", "key", "value")]
        return tuple(numpy.concatenate(parts) for parts in zip(*maps))

    @property
    def head(self):
        """[vocab, dim]; None if it is the token embedding."""
        return self.weights.get("head.weight")
