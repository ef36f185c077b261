"""Writes a dense GPT-2 that the library saved as a GGUF file, the format of llama.cpp:
  python3 to_gguf.py IN.safetensors OUT.gguf [--type F32|BF16|Q8_0]
The type is that of the matrices; biases, norms and position embeddings are F32. The file has no tokenizer: programs
give ids. Needs the package gguf.
"""
import argparse

import gguf

from weights import GPT2


def write(model, path, matrix_type):
    out = gguf.GGUFWriter(path, "gpt2")
    out.add_context_length(model.context)
    out.add_embedding_length(model.dim)
    out.add_feed_forward_length(model.hidden)
    out.add_block_count(model.layers)
    out.add_head_count(model.heads)
    out.add_layer_norm_eps(model.norm_epsilon)
    out.add_file_type(gguf.LlamaFileType["ALL_F32" if matrix_type == "F32" else "MOSTLY_" + matrix_type])
    out.add_tokenizer_model("no_vocab")
    out.add_vocab_size(model.vocab)

    def add(name, weight, type="F32"):
        type = gguf.GGMLQuantizationType[type]
        out.add_tensor(name, gguf.quants.quantize(weight, type), raw_dtype=type)

    def add_pair(name, pair, type="F32"):
        add(name + ".weight", pair[0], type)
        add(name + ".bias", pair[1])

    add("token_embd.weight", model.weights["token_embedding.weight"], matrix_type)
    add("position_embd.weight", model.weights["position_embedding.weight"])
    for i in range(model.layers):
        add_pair(f"blk.{i}.attn_norm", model.pair(f"blocks.{i}.norm1"))
        add_pair(f"blk.{i}.attn_qkv", model.qkv(i), matrix_type)
        add_pair(f"blk.{i}.attn_output", model.pair(f"blocks.{i}.attention.output"), matrix_type)
        add_pair(f"blk.{i}.ffn_norm", model.pair(f"blocks.{i}.norm2"))
        add_pair(f"blk.{i}.ffn_up", model.pair(f"blocks.{i}.ffn.up"), matrix_type)
        add_pair(f"blk.{i}.ffn_down", model.pair(f"blocks.{i}.ffn.down"), matrix_type)
    add_pair("output_norm", model.pair("norm"))
    if model.head is not None:
        add("output.weight", model.head, matrix_type)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("safetensors")
    arguments.add_argument("gguf")
    arguments.add_argument("--type", choices=("F32", "BF16", "Q8_0"), default="F32")
    args = arguments.parse_args()
    write(GPT2(args.safetensors), args.gguf, args.type)
