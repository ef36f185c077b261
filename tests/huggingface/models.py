"""Tiny models of each family with random weights, as transformers writes them, and what it computes with them.

The types of the models are in run_model.hpp.
"""
import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file

import reference

common = dict(vocab_size=61, max_position_embeddings=80, hidden_size=24, num_hidden_layers=2, num_attention_heads=4)
small = dict(vocab_size=31, max_position_embeddings=80, hidden_size=12, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2)
ids = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
rope = dict(rope_theta=100.0, original_max_position_embeddings=32)
yarn = dict(rope_type="yarn", factor=2.5, beta_fast=4.0, beta_slow=1.0, **rope)
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
    "olmoe": lambda: transformers.OlmoeConfig(**{
        **small, "hidden_size": 16}, intermediate_size=7, num_experts=5, num_experts_per_tok=3, clip_qkv=0.8,
        router_aux_loss_coef=0.02, **ids),
    "qwen3": lambda: transformers.Qwen3Config(
        **small, head_dim=8, intermediate_size=18, tie_word_embeddings=True, rope_parameters=dict(
            rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, **rope), **ids),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**{
        **small, "num_hidden_layers": 3}, head_dim=8, intermediate_size=18, moe_intermediate_size=5, num_experts=6,
        num_experts_per_tok=2, norm_topk_prob=True, mlp_only_layers=[1], router_aux_loss_coef=0.02,
        rope_parameters=yarn, **ids),
    "granitemoe": lambda: transformers.GraniteMoeConfig(**{
        **small, "hidden_size": 16}, intermediate_size=7, num_local_experts=5, num_experts_per_tok=2,
        embedding_multiplier=3.0, logits_scaling=0.7, residual_multiplier=0.4, attention_multiplier=0.3,
        tie_word_embeddings=True, router_aux_loss_coef=0.02,
        rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=100.0), **ids),
    "dots1": lambda: transformers.Dots1Config(**{
        **small, "num_hidden_layers": 3}, head_dim=6, intermediate_size=17, moe_intermediate_size=5, n_shared_experts=2,
        n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=3, first_k_dense_replace=1,
        norm_topk_prob=True, routed_scaling_factor=2.5, **ids),
    "glm4_moe": lambda: transformers.Glm4MoeConfig(
        **small, head_dim=8, intermediate_size=17, moe_intermediate_size=5, n_shared_experts=1, n_routed_experts=5,
        num_experts_per_tok=2, first_k_dense_replace=1, norm_topk_prob=False, routed_scaling_factor=1.25,
        attention_bias=True, rope_theta=100.0, partial_rotary_factor=0.5, num_mtp_layers=0, **ids),
    # DeepSeek-MoE 16B: its code is not part of transformers.
    "deepseek": lambda: {
        "model_type": "deepseek", "architectures": ["DeepseekForCausalLM"], **small, "num_hidden_layers": 3,
        "hidden_size": 16, "num_key_value_heads": 4, "intermediate_size": 19, "moe_intermediate_size": 5,
        "n_shared_experts": 2, "n_routed_experts": 6, "num_experts_per_tok": 3, "first_k_dense_replace": 1,
        "moe_layer_freq": 1, "norm_topk_prob": False, "scoring_func": "softmax", "aux_loss_alpha": 0.02,
        "seq_aux": True, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": None,
        "attention_bias": False, "tie_word_embeddings": False},
}
SMALL = [name for name in CONFIGS if name not in ("gpt2", "llama", "qwen2", "mixtral", "qwen2_moe")]
CONFIGS |= {
    "qwen3, window in one layer": lambda: transformers.Qwen3Config(**{
        **CONFIGS["qwen3"]().to_dict(), "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1,
        "layer_types": None}),
    "llama, dynamic scaling": lambda: transformers.LlamaConfig(
        **common, num_key_value_heads=2, intermediate_size=44,
        rope_parameters=dict(rope_type="dynamic", factor=4.0, rope_theta=10000.0), **ids),
    "qwen3_moe, attention factor": lambda: transformers.Qwen3MoeConfig(**{
        **CONFIGS["qwen3_moe"]().to_dict(), "rope_parameters": yarn | dict(attention_factor=1.3)}),
    "qwen3_moe, mscale": lambda: transformers.Qwen3MoeConfig(**{
        **CONFIGS["qwen3_moe"]().to_dict(), "rope_parameters": yarn | dict(mscale=0.7, mscale_all_dim=1.1)}),
}


def make(name, seed, length=64):
    """A model whose logits have a size of about 10, ids [2, length], and how many of each are not padding."""
    torch.manual_seed(seed)
    config = CONFIGS[name]()
    if isinstance(config, dict):
        model = reference.Model(config, {n: torch.empty(s) for n, s in deepseek_shapes(config).items()})
        parameters = model.named_parameters()
    else:
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        parameters = [*model.named_parameters(),
                      *(b for b in model.named_buffers() if b[0].endswith("e_score_correction_bias"))]
    head = {"gpt2": "wte", "qwen3": "embed_tokens", "granitemoe": "embed_tokens"}.get(
        model.config.model_type, "lm_head")
    with torch.no_grad():
        for n, p in parameters:
            p.normal_(1 if p.dim() == 1 and n.endswith("weight") else 0, 0.1 if p.dim() == 1 else 0.25)
            if head in n:
                p.mul_(2 if head == "wte" else 2.5)
    return model, torch.randint(0, model.config.vocab_size, (2, length)), [length, length - 7]


def deepseek_shapes(c):
    """Shapes of the tensors of DeepSeek-MoE by name."""
    D, V, width = c["hidden_size"], c["vocab_size"], c["hidden_size"] // c["num_attention_heads"]
    shapes = {"model.embed_tokens.weight": [V, D], "model.norm.weight": [D], "lm_head.weight": [V, D]}

    def ffn(name, hidden):
        shapes.update({f"{name}.gate_proj.weight": [hidden, D], f"{name}.up_proj.weight": [hidden, D],
                       f"{name}.down_proj.weight": [D, hidden]})
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}.{norm}.weight"] = [D]
        for p, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads"), ("v", "num_key_value_heads")):
            shapes[f"{layer}.self_attn.{p}_proj.weight"] = [c[heads] * width, D]
        shapes[f"{layer}.self_attn.o_proj.weight"] = [D, c["num_attention_heads"] * width]
        if i < c["first_k_dense_replace"]:
            ffn(f"{layer}.mlp", c["intermediate_size"])
            continue
        shapes[f"{layer}.mlp.gate.weight"] = [c["n_routed_experts"], D]
        ffn(f"{layer}.mlp.shared_experts", c["n_shared_experts"] * c["moe_intermediate_size"])
        for e in range(c["n_routed_experts"]):
            ffn(f"{layer}.mlp.experts.{e}", c["moe_intermediate_size"])
    return shapes


def names_in_file(name, g, family):
    """Of a parameter's gradient, the parts by name in a file."""
    if family == "granitemoe":
        for ours, theirs in (("experts.gate_up_proj", "input_linear.weight"), ("experts.down_proj", "output_linear.weight"),
                             ("router.weight", "router.layer.weight")):
            name = name.replace("block_sparse_moe." + ours, "block_sparse_moe." + theirs)
        return {name: g}
    if family == "mixtral":
        name = name.replace(".mlp.", ".block_sparse_moe.")
    if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return {name: g}
    stem, kind = name.rsplit(".", 1)
    names = ["gate_proj", "up_proj"] if kind == "gate_up_proj" else ["down_proj"]
    if family == "mixtral":
        names = [{"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}[n] for n in names]
    return {f"{stem}.{e}.{n}.weight": part
            for e in range(g.shape[0]) for part, n in zip(g[e].chunk(len(names), 0), names)}


def compute(model, tokens, lengths):
    """Logits, loss, balance loss, and gradients of loss + coefficient * balance loss by name of the checkpoint."""
    if isinstance(model, reference.Model):
        return model.compute(tokens, lengths)
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
        gradients |= names_in_file(name, p.grad if p.grad is not None else torch.zeros_like(p), model.config.model_type)
    return out.logits.detach(), torch.stack([cross_entropy.detach(), balance.detach()]), gradients


def write(directory, model, tokens, lengths):
    directory = pathlib.Path(directory)
    if isinstance(model, reference.Model):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(model.json, indent=2) + "\n")
        save_file({n: t.detach() for n, t in model.tensors.items()}, directory / "model.safetensors")
    else:
        model.save_pretrained(directory)
    generation = directory / "generation_config.json"
    generation.unlink(missing_ok=True)
    padded = torch.tensor([[int(t) if i < n else -1 for i, t in enumerate(row)] for row, n in zip(tokens, lengths)])
    save_file({"ids": padded.double()}, directory / "batch.safetensors")
