"""The families of Llama's blocks in plain PyTorch, computed as their publications state, in the tensors' own precision.

A model is config.json as a dictionary and the tensors of its file by name. transformers forces norms, softmax and rotary
angles to float; this does not. `deepseek` (DeepSeek-MoE 16B, published with code of its own) exists only here.
"""
import json
import math
import pathlib
import types

import torch
from safetensors.torch import load_file
from torch.nn.functional import embedding, linear, silu, softmax

SIGMOID = ("dots1", "glm4_moe")
FULL_NORMS, HEAD_NORMS = ("olmoe",), ("qwen3", "qwen3_moe", "dots1")


def frequencies(config, width, dtype):
    """Angles per position [width / 2], and the factor of cosine and sine."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    base = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    plain = base ** (-torch.arange(0, width, 2, dtype=dtype) / width)
    kind = rope.get("rope_type", "default")
    if kind in ("default", "dynamic"):
        return plain, 1.0
    factor = rope["factor"]
    if kind == "linear":
        return plain / factor, 1.0
    context = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
    if kind == "llama3":
        wavelength, low, high = 2 * math.pi / plain, rope["low_freq_factor"], rope["high_freq_factor"]
        share = ((context / wavelength - low) / (high - low)).clamp(0, 1)  # of the plain frequency
        return plain * share + plain / factor * (1 - share), 1.0
    assert kind == "yarn"

    def pair_of(rotations):  # that turns so often within the original context
        return width * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(base))
    first = max(math.floor(pair_of(rope.get("beta_fast") or 32)), 0)
    last = min(math.ceil(pair_of(rope.get("beta_slow") or 1)), width - 1)
    share = 1 - ((torch.arange(width // 2, dtype=dtype) - first) / max(last - first, 0.001)).clamp(0, 1)

    def attention(scale):
        return 0.1 * scale * math.log(factor) + 1
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        usual = attention(rope["mscale"]) / attention(rope["mscale_all_dim"])
    else:
        usual = attention(1)
    return plain * share + plain / factor * (1 - share), rope.get("attention_factor") or usual


def rotate(x, cos, sin):
    """The first features of each head, in pairs (i, i + half). x [B, H, T, d], cos and sin [T, half]."""
    half = cos.shape[-1]
    a, b = x[..., :half], x[..., half:2 * half]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half:]], -1)


class Model:
    """As a model of transformers: config, double(), and computed by compute()."""

    def __init__(self, config, tensors):
        self.json, self.tensors = config, {n: t.detach().clone().requires_grad_() for n, t in tensors.items()}
        self.config = types.SimpleNamespace(**config)

    @staticmethod
    def read(directory):
        directory = pathlib.Path(directory)
        return Model(json.loads((directory / "config.json").read_text()), load_file(directory / "model.safetensors"))

    def double(self):
        self.__init__(self.json, {n: t.double() for n, t in self.tensors.items()})
        return self

    def bfloat16(self):
        self.__init__(self.json, {n: t.bfloat16() for n, t in self.tensors.items()})
        return self

    def parameters(self):
        return self.tensors.values()

    def named_parameters(self):
        return self.tensors.items()

    def named_buffers(self):
        return ()

    def norm(self, name, x):
        return self.tensors[name] * x * (x.square().mean(-1, keepdim=True) + self.json["rms_norm_eps"]).rsqrt()

    def project(self, name, x):
        return linear(x, self.tensors[name + ".weight"], self.tensors.get(name + ".bias"))

    def attention(self, name, x, mask):
        c, family = self.json, self.json["model_type"]
        heads = c["num_attention_heads"]
        width = c.get("head_dim") or c["hidden_size"] // heads
        q, k, v = (self.project(f"{name}.{p}_proj", x) for p in "qkv")
        if family in FULL_NORMS:
            q, k = self.norm(f"{name}.q_norm.weight", q), self.norm(f"{name}.k_norm.weight", k)
        if c.get("clip_qkv"):
            q, k, v = (y.clamp(-c["clip_qkv"], c["clip_qkv"]) for y in (q, k, v))
        q, k, v = (y.unflatten(-1, (-1, width)).transpose(1, 2) for y in (q, k, v))
        if family in HEAD_NORMS or c.get("use_qk_norm"):
            q, k = self.norm(f"{name}.q_norm.weight", q), self.norm(f"{name}.k_norm.weight", k)
        rope = c.get("rope_parameters") or {}
        part = rope.get("partial_rotary_factor", c.get("partial_rotary_factor", 1.0))
        per_position, factor = frequencies(c, int(width * part), x.dtype)
        angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * per_position
        cos, sin = angles.cos() * factor, angles.sin() * factor
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (y.repeat_interleave(heads // y.shape[1], 1) for y in (k, v))
        scale = c.get("attention_multiplier", width ** -0.5)
        scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~mask[:, None], -math.inf)
        return self.project(f"{name}.o_proj", (softmax(scores, -1) @ v).transpose(1, 2).flatten(2))

    def ffn(self, gate, up, down, x):
        return linear(silu(linear(x, gate)) * linear(x, up), down)

    def named_ffn(self, name, x):
        return self.ffn(*(self.tensors[f"{name}.{p}_proj.weight"] for p in ("gate", "up", "down")), x)

    def expert(self, name, e, x):
        c = self.json
        if c["model_type"] == "granitemoe":
            gate, up = self.tensors[name + ".input_linear.weight"][e].chunk(2)
            return self.ffn(gate, up, self.tensors[name + ".output_linear.weight"][e], x)
        if c["model_type"] == "mixtral":
            return self.ffn(*(self.tensors[f"{name}.experts.{e}.w{i}.weight"] for i in (1, 3, 2)), x)
        return self.named_ffn(f"{name}.experts.{e}", x)

    def mixture(self, name, x, real):
        """The output, and (scores [N, E], choices [N, E] as 0 and 1) of the real tokens for the balance loss."""
        c, family = self.json, self.json["model_type"]
        flat, k = x.flatten(0, 1), c["num_experts_per_tok"]
        gate = name + (".router.layer" if family == "granitemoe" else ".gate")
        logits = linear(flat, self.tensors[gate + ".weight"])
        if family in SIGMOID:
            scores = logits.sigmoid()
            rank = scores + self.tensors[name + ".gate.e_score_correction_bias"].detach()
            groups = rank.unflatten(1, (c.get("n_group") or 1, -1))
            best = groups.topk(2, -1).values.sum(-1).topk(c.get("topk_group") or 1).indices
            kept = torch.zeros(groups.shape[:2], dtype=torch.bool).scatter(1, best, True)
            rank = groups.masked_fill(~kept[..., None], -math.inf).flatten(1)
        else:
            scores = softmax(logits, -1)
            rank = logits
        chosen = rank.topk(k).indices
        gates = scores.gather(1, chosen)
        if c.get("norm_topk_prob", family in ("mixtral", "granitemoe")):
            gates = gates / gates.sum(-1, keepdim=True)
        gates = gates * c.get("routed_scaling_factor", 1.0)
        weights = torch.zeros_like(scores).scatter(1, chosen, gates)
        y = sum(weights[:, e:e + 1] * self.expert(name, e, flat) for e in range(scores.shape[1]))
        if family in SIGMOID + ("deepseek",):
            y = y + self.named_ffn(name + ".shared_experts", flat)
        if family == "qwen2_moe":
            shared = linear(flat, self.tensors[name + ".shared_expert_gate.weight"]).sigmoid()
            y = y + shared * self.named_ffn(name + ".shared_expert", flat)
        return y.view_as(x), (scores, torch.zeros_like(scores).scatter(1, chosen, 1.0))

    def is_mixture(self, layer):
        c = self.json
        if not (c.get("num_experts_per_tok")):
            return False
        if c["model_type"] in SIGMOID + ("deepseek",):
            return layer >= c["first_k_dense_replace"] and layer % c.get("moe_layer_freq", 1) == 0
        return layer not in (c.get("mlp_only_layers") or []) and (layer + 1) % c.get("decoder_sparse_step", 1) == 0

    def balance(self, routed, real):
        """Of all layers; padding is left out."""
        c = self.json
        if c["model_type"] == "deepseek":  # the sum over layers of the mean over sequences
            total = 0
            for scores, choices in routed:
                for b, sequence in enumerate(real):
                    rows = torch.arange(real.numel()).view_as(real)[b][sequence]
                    share = choices[rows].mean(0) * scores.shape[1] / c["num_experts_per_tok"]
                    total = total + (share * scores[rows].mean(0)).sum() / len(real)
            return total
        rows = real.flatten()
        scores = torch.cat([s[rows] for s, _ in routed])
        choices = torch.cat([s[rows] for _, s in routed])
        return scores.shape[1] * (choices.mean(0) * scores.mean(0)).sum()

    def coefficient(self):
        return self.json.get("aux_loss_alpha", self.json.get("router_aux_loss_coef", 0.0))

    def compute(self, tokens, lengths):
        """As models.compute."""
        c, t = self.json, self.tensors
        real = torch.tensor([[i < n for i in range(tokens.shape[1])] for n in lengths])
        T = tokens.shape[1]
        mask = torch.ones(T, T, dtype=torch.bool).tril()[None] & (real[:, None] | torch.eye(T, dtype=torch.bool)[None])
        x = embedding(tokens, t["model.embed_tokens.weight"]) * c.get("embedding_multiplier", 1.0)
        by, routed = c.get("residual_multiplier", 1.0), []
        for layer in range(c["num_hidden_layers"]):
            name = f"model.layers.{layer}"
            seen = mask
            if "layer_types" in c and c["layer_types"][layer] == "sliding_attention":
                seen = mask & torch.ones(T, T, dtype=torch.bool).triu(1 - c["sliding_window"])
            x = x + by * self.attention(name + ".self_attn", self.norm(name + ".input_layernorm.weight", x), seen)
            h = self.norm(name + ".post_attention_layernorm.weight", x)
            if self.is_mixture(layer):
                inner = "block_sparse_moe" if c["model_type"] in ("mixtral", "granitemoe") else "mlp"
                y, scores = self.mixture(f"{name}.{inner}", h, real)
                routed.append(scores)
            else:
                y = self.named_ffn(name + ".mlp", h)
            x = x + by * y
        x = self.norm("model.norm.weight", x)
        head = t["model.embed_tokens.weight" if c.get("tie_word_embeddings") else "lm_head.weight"]
        logits = linear(x, head) / c.get("logits_scaling", 1.0)
        labels = torch.where(real, tokens, -100)
        cross_entropy = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        counts = routed and self.coefficient() > 0
        balance = self.balance(routed, real) if counts else torch.zeros(())
        (cross_entropy + self.coefficient() * balance).backward()
        gradients = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in t.items()
                     if not n.endswith("e_score_correction_bias")}
        for p in t.values():
            p.grad = None
        return logits.detach(), torch.stack([cross_entropy.detach(), balance.detach()]), gradients
