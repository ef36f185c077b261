"""Tiny models of each family with random weights, as transformers writes them, and what it computes with them.

The sizes are those of run_model.hpp.
"""
import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file

common = dict(vocab_size=61, max_position_embeddings=80, hidden_size=24, num_hidden_layers=2, num_attention_heads=4)
ids = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=61, n_positions=80, n_embd=20, n_layer=2, n_head=4, n_inner=36, **ids),
    "llama": lambda: transformers.LlamaConfig(**common, num_key_value_heads=2, intermediate_size=44, **ids),
    "qwen2": lambda: transformers.Qwen2Config(
        **common, num_key_value_heads=2, intermediate_size=44, tie_word_embeddings=True, **ids),
    "mixtral": lambda: transformers.MixtralConfig(
        **common, num_key_value_heads=2, intermediate_size=20, num_local_experts=5, num_experts_per_tok=2,
        router_aux_loss_coef=0.02, **ids),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(**{
        **common, "num_hidden_layers": 3}, num_key_value_heads=4, intermediate_size=36, moe_intermediate_size=12,
        shared_expert_intermediate_size=24, num_experts=6, num_experts_per_tok=3, mlp_only_layers=[1],
        router_aux_loss_coef=0.02, **ids),
}


def make(family, seed, length=64):
    """A model whose logits have a size of about 10, ids [2, length], and how many of each are not padding."""
    torch.manual_seed(seed)
    config = CONFIGS[family]()
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1 if p.dim() == 1 and name.endswith("weight") else 0, 0.1 if p.dim() == 1 else 0.25)
            if "lm_head" in name or "wte" in name:
                p.mul_(2 if "wte" in name else 2.5)
    return model, torch.randint(0, config.vocab_size, (2, length)), [length, length - 7]


def compute(model, tokens, lengths):
    """Logits, loss, balance loss, and gradients of loss + coefficient * balance loss by name of the checkpoint."""
    mask = torch.tensor([[t < n for t in range(tokens.shape[1])] for n in lengths])
    labels = torch.where(mask, tokens, -100)
    mixture = hasattr(model.config, "router_aux_loss_coef")
    out = model(input_ids=tokens, attention_mask=mask.long(), **({"output_router_logits": True} if mixture else {}))
    # Not the model's own loss, which is computed in float.
    cross_entropy = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    balance = out.aux_loss if mixture else torch.zeros(())
    model.zero_grad()
    (cross_entropy + (model.config.router_aux_loss_coef * balance if mixture else 0)).backward()
    gradients = {}
    for name, p in model.named_parameters():
        g = p.grad if p.grad is not None else torch.zeros_like(p)
        if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj"):
            stem = name.rsplit(".", 1)[0]
            names = ["gate_proj", "up_proj"] if name.endswith("gate_up_proj") else ["down_proj"]
            if model.config.model_type == "mixtral":
                stem = stem.replace(".mlp.", ".block_sparse_moe.")
                names = [{"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}[n] for n in names]
            for e in range(g.shape[0]):
                for part, n in zip(g[e].chunk(len(names), 0), names):
                    gradients[f"{stem}.{e}.{n}.weight"] = part
        else:
            if model.config.model_type == "mixtral":
                name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
            gradients[name] = g
    return out.logits.detach(), torch.stack([cross_entropy.detach(), balance.detach()]), gradients


def write(directory, model, tokens, lengths):
    directory = pathlib.Path(directory)
    model.save_pretrained(directory)
    generation = directory / "generation_config.json"
    generation.unlink(missing_ok=True)
    padded = torch.tensor([[int(t) if i < n else -1 for i, t in enumerate(row)] for row, n in zip(tokens, lengths)])
    save_file({"ids": padded.double()}, directory / "batch.safetensors")
