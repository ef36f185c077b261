#!/usr/bin/env python3
"""Writes nn_transformer.safetensors beside this file: python3 tests/golden/make_nn_transformer.py (seconds).

PyTorch's nn.Transformer in float64 with 2 + 2 layers of width 8, 2 heads, relu networks of width 5, without dropout,
with its final norms, a causal target mask and key padding masks of source and memory (the targets are padded at the
end, so the causal mask hides their padding), between embeddings with learned positions and a head without bias.
Source: vocabulary 7, context 6; target: vocabulary 9, context 5. Two sequences.

source [2,6], source_lengths [2], inputs, targets [2,5], lengths [2]
weight.PATH              weights of both models, with the paths of EncoderDecoder
post.*, pre.*            norm_first=False, True: memory [2,6,8], logits [2,5,9] (rows of padding are undefined),
                         loss [1] (mean cross-entropy of targets that are not padding), grad.PATH
"""
import json
import pathlib
import struct

import torch
from torch import nn

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.backends.mha.set_fastpath_enabled(False)

D, HEADS, LAYERS, DFF = 8, 2, 2, 5
SOURCE, TARGET = (7, 6), (9, 5)  # vocabulary, context


class Model(nn.Module):
    def __init__(self, norm_first):
        super().__init__()
        self.body = nn.Transformer(D, HEADS, LAYERS, LAYERS, DFF, dropout=0.0, activation="relu", batch_first=True,
                                   norm_first=norm_first)
        self.source_embedding, self.target_embedding = nn.Embedding(SOURCE[0], D), nn.Embedding(TARGET[0], D)
        self.source_position, self.target_position = nn.Embedding(SOURCE[1], D), nn.Embedding(TARGET[1], D)
        self.head = nn.Linear(D, TARGET[0], bias=False)

    def forward(self, source, source_padding, inputs):
        x = self.source_embedding(source) + self.source_position.weight[: source.shape[1]]
        y = self.target_embedding(inputs) + self.target_position.weight[: inputs.shape[1]]
        future = torch.ones(inputs.shape[1], inputs.shape[1], dtype=torch.bool).triu(1)
        memory = self.body.encoder(x, src_key_padding_mask=source_padding)
        z = self.body(x, y, tgt_mask=future, src_key_padding_mask=source_padding,
                      memory_key_padding_mask=source_padding)
        return memory, self.head(z)


def attention_tensors(prefix, attention, of):
    """The tensors of an nn.MultiheadAttention by our paths; `of` gives the value or the gradient of a parameter."""
    tensors = {}
    for name, w, b in zip(("query", "key", "value"), of(attention.in_proj_weight).chunk(3),
                          of(attention.in_proj_bias).chunk(3)):
        tensors[f"{prefix}.{name}.weight"], tensors[f"{prefix}.{name}.bias"] = w, b
    tensors[prefix + ".output.weight"] = of(attention.out_proj.weight)
    tensors[prefix + ".output.bias"] = of(attention.out_proj.bias)
    return tensors


def tensors_of(model, of):
    tensors = {
        "encoder.token_embedding.weight": of(model.source_embedding.weight),
        "encoder.position_embedding.weight": of(model.source_position.weight),
        "decoder.token_embedding.weight": of(model.target_embedding.weight),
        "decoder.position_embedding.weight": of(model.target_position.weight),
        "decoder.head.weight": of(model.head.weight),
    }

    def module(path, m):
        tensors[path + ".weight"], tensors[path + ".bias"] = of(m.weight), of(m.bias)

    for part, norms in (("encoder", 2), ("decoder", 3)):
        trunk = getattr(model.body, part)
        module(part + ".norm", trunk.norm)
        for i, layer in enumerate(trunk.layers):
            block = f"{part}.blocks.{i}"
            tensors |= attention_tensors(block + ".attention", layer.self_attn, of)
            if part == "decoder":
                tensors |= attention_tensors(block + ".cross_attention", layer.multihead_attn, of)
            module(block + ".ffn.up", layer.linear1)
            module(block + ".ffn.down", layer.linear2)
            for n in range(1, norms + 1):
                module(f"{block}.norm{n}", getattr(layer, f"norm{n}"))
    return tensors


def main():
    torch.manual_seed(1)
    source = torch.randint(0, SOURCE[0], (2, SOURCE[1]))
    inputs, targets = (torch.randint(0, TARGET[0], (2, TARGET[1])) for _ in range(2))
    source_lengths, lengths = torch.tensor([6, 4]), torch.tensor([3, 5])
    padding = torch.arange(SOURCE[1])[None] >= source_lengths[:, None]
    counted = torch.arange(TARGET[1])[None] < lengths[:, None]
    out = {"source": source, "source_lengths": source_lengths, "inputs": inputs, "targets": targets,
           "lengths": lengths}

    models = {"post": Model(False), "pre": Model(True)}
    with torch.no_grad():
        for p in models["post"].parameters():
            p.copy_((0.5 * torch.randn(p.shape)).float().double())
        models["pre"].load_state_dict(models["post"].state_dict())
    for name, w in tensors_of(models["post"], lambda p: p.detach()).items():
        out["weight." + name] = w
    for kind, model in models.items():
        memory, logits = model(source, padding, inputs)
        loss = nn.functional.cross_entropy(logits[counted], targets[counted])
        loss.backward()
        out |= {f"{kind}.memory": memory.detach(), f"{kind}.logits": logits.detach(),
                f"{kind}.loss": loss.detach()[None]}
        for name, g in tensors_of(model, lambda p: p.grad).items():
            out[f"{kind}.grad.{name}"] = g

    header, data = {"__metadata__": {"torch": torch.__version__}}, b""
    for name, t in out.items():
        raw = struct.pack(f"<{t.numel()}d", *t.double().flatten().tolist())
        header[name] = {"dtype": "F64", "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = pathlib.Path(__file__).with_name("nn_transformer.safetensors")
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


if __name__ == "__main__":
    main()
