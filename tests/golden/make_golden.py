#!/usr/bin/env python3
"""Writes the PyTorch parity fixtures beside this file: /usr/bin/python3 tests/golden/make_golden.py (seconds).

The models are PyTorch in float64, written here from the formulas; Debian's python3-torch (1.13) is enough. The same
torch gives the same bytes. check_golden.py checks the files against a second formulation in numpy.

Files: makemoe_noise_off, makemoe_noise_given, makemoe_capacity, gqa_rotary (.safetensors, every tensor F64).
Pre-norm blocks x += attention(norm1 x); x += moe(norm2 x); final norm; untied head; no dropout; causal attention;
K logits kept, then softmax over them; token n = b*T + t. Rounded initial weights: float holds them exactly.

            V  D  H Hk dk layers E K Dff context  B,T  steps B,T
makemoe_*  11 12  3  3  4   2    4 2  10    6     2,6     2,3     LayerNorm (eps 1e-5), learned positions, biases
             everywhere but in query, key, value; score scale 1/sqrt(D); relu experts; noisy router, no balance loss:
             h = gate(x) + eps * softplus(noise(x)); capacity file: each expert keeps its first int(N*K/E) = 6 tokens
gqa_rotary 11 16  4  2  4   2    5 2   8    8     2,7     2,3     RMSNorm (eps 1e-5), half-split rotary (base 10000),
             no bias anywhere, score scale 1/sqrt(dk), gated silu experts down(silu(gate x) * up x), balance loss per
             layer 0.01 * E * sum_e f_e P_e, f = count/(N*K) constant, P = mean of the full softmax, summed over layers

inputs, targets [B,T]    token ids                     logits [B,T,V]   loss [1]   mean cross-entropy alone
balance [1]              balance loss (0 in makemoe_*) counts [layers,E]  pairs each expert computed (after dropping)
weight.PATH              initial weights               grad.PATH        gradient of loss + balance
noise [layers,N,E]       eps of this forward, makemoe_noise_given only
AdamW, 10 steps from weight.PATH (not in makemoe_capacity): lr 1e-2, betas 0.9 0.999, eps 1e-8, decay 0.01 on every
tensor, no clipping, gradient of loss + balance:
steps.inputs, steps.targets [10,B,T]   skip.PATH, zero.PATH   weights after the 10 steps
steps.skip.losses, .balances [10], .counts [10,layers,E] (before each update), the same for steps.zero
  skip: an expert without tokens has no gradient; AdamW passes over it and its step count stands still
  zero: its gradient is zero; its moments and weights decay and its step count advances
In makemoe_noise_off eps is 0, not absent: the noise weights have gradient 0 and decay under both semantics.

Noise: eps[layer, n, e] = key.normal(n*E + e) with core/random.hpp and
  key = Key{mix64(7)}.with(Purpose::step, s).with(Purpose::layer, layer).with(Purpose::router_noise, 0)
s = 0 in the single forward, s = 1..10 in the AdamW steps.

Seeds are redrawn until no routing tie or ReLU kink is nearer than MARGIN (routing_margin: least gap between the K-th
and the next logit; relu_margin: least |pre-activation|), experts of each layer fall idle after use in the AdamW steps,
pairs are dropped in each layer (capacity), and a float32 AdamW run stays within 1e-5. The metadata has the figures.
"""
import json
import math
import pathlib
import struct
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

LEARNING_RATE, BETAS, EPSILON, DECAY, STEPS = 1e-2, (0.9, 0.999), 1e-8, 0.01, 10
MARGIN = 2e-4  # least distance to a routing tie or a ReLU kink
MAKEMOE = dict(V=11, D=12, H=3, Hk=3, dk=4, layers=2, E=4, K=2, Dff=10, context=6, scale=12**-0.5, makemoe=True,
               noise=False, capacity=0.0, alpha=0.0, shape=(2, 6), step_shape=(2, 3))
FIXTURES = {
    "makemoe_noise_off": MAKEMOE,
    "makemoe_noise_given": MAKEMOE | dict(noise=True),
    "makemoe_capacity": MAKEMOE | dict(capacity=1.0, step_shape=None),
    "gqa_rotary": dict(V=11, D=16, H=4, Hk=2, dk=4, layers=2, E=5, K=2, Dff=8, context=8, scale=4**-0.5, makemoe=False,
                       noise=False, capacity=0.0, alpha=0.01, shape=(2, 7), step_shape=(2, 3)),
}


# --- noise: include/moegpt/core/random.hpp on Python integers ---------------------------------------------------------
M64 = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
ROUTER_NOISE, STEP, LAYER = 5, 6, 7  # enum Purpose


def mix64(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
    return z ^ (z >> 31)


def key_with(key, purpose, number):
    return mix64((mix64((key + GOLDEN * purpose) & M64) + number) & M64)


def normal(key, counter):
    b = mix64((key + (counter + 1) * GOLDEN) & M64)
    u = ((b >> 32) + 0.5) * 2.0**-32
    return math.sqrt(-2 * math.log(u)) * math.cos(6.283185307179586 * (b & 0xFFFFFFFF) * 2.0**-32)


def router_noise(c, step, N):
    """eps [layers, N, E]; all zero when the noise is off."""
    eps = np.zeros((c.layers, N, c.E))
    if c.noise:
        for layer in range(c.layers):
            key = key_with(key_with(key_with(mix64(7), STEP, step), LAYER, layer), ROUTER_NOISE, 0)
            eps[layer] = [[normal(key, n * c.E + e) for e in range(c.E)] for n in range(N)]
    return eps


# --- the model in PyTorch; attribute names are the library's paths ----------------------------------------------------
class RMSNorm(nn.Module):
    def __init__(self, D):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


def rotate(x, base=10000.0):  # x [B, heads, T, dk], half-split pairs (i, i + dk/2)
    T, half = x.shape[-2], x.shape[-1] // 2
    angle = torch.arange(T)[:, None] * base ** (-torch.arange(half, dtype=torch.float64) / half)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.query = nn.Linear(c.D, c.H * c.dk, bias=False)
        self.key = nn.Linear(c.D, c.Hk * c.dk, bias=False)
        self.value = nn.Linear(c.D, c.Hk * c.dk, bias=False)
        self.output = nn.Linear(c.H * c.dk, c.D, bias=c.makemoe)

    def forward(self, x):
        c, (B, T, _) = self.c, x.shape
        q = self.query(x).view(B, T, c.H, c.dk).transpose(1, 2)
        k = self.key(x).view(B, T, c.Hk, c.dk).transpose(1, 2)
        v = self.value(x).view(B, T, c.Hk, c.dk).transpose(1, 2)
        if not c.makemoe:
            q, k = rotate(q), rotate(k)
        k, v = (t.repeat_interleave(c.H // c.Hk, dim=1) for t in (k, v))
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        P = (c.scale * q @ k.transpose(-1, -2)).masked_fill(future, -math.inf).softmax(-1)
        return self.output((P @ v).transpose(1, 2).reshape(B, T, c.H * c.dk))


class Expert(nn.Module):
    def __init__(self, c, trace):
        super().__init__()
        self.gated, self.trace = not c.makemoe, trace
        if self.gated:
            self.gate = nn.Linear(c.D, c.Dff, bias=False)
        self.up = nn.Linear(c.D, c.Dff, bias=c.makemoe)
        self.down = nn.Linear(c.Dff, c.D, bias=c.makemoe)

    def forward(self, x):
        a = self.up(x)
        if self.gated:
            return self.down(F.silu(self.gate(x)) * a)
        self.trace.relu_margin = min(self.trace.relu_margin, a.abs().min().item())
        return self.down(a.relu())


class Router(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate = nn.Linear(c.D, c.E, bias=c.makemoe)
        if c.makemoe:
            self.noise = nn.Linear(c.D, c.E)


class MoE(nn.Module):
    def __init__(self, c, trace):
        super().__init__()
        self.c, self.trace = c, trace
        self.router = Router(c)
        self.experts = nn.ModuleList(Expert(c, trace) for _ in range(c.E))

    def forward(self, x, eps):  # x [N, D], eps [N, E]
        c, trace, N = self.c, self.trace, len(x)
        logits = h = self.router.gate(x)
        if c.makemoe:  # also with eps = 0: the noise weights then have a gradient, zero, and AdamW decays them
            h = logits + eps * F.softplus(self.router.noise(x))
        top, chosen = h.topk(c.K)
        gates = top.softmax(-1)
        best = h.detach().sort(-1, descending=True).values
        trace.routing_margin = min(trace.routing_margin, (best[:, c.K - 1] - best[:, c.K]).min().item())
        capacity = int(N * c.K / c.E * c.capacity) if c.capacity else N
        y, counts = torch.zeros_like(x), []
        for e, expert in enumerate(self.experts):
            token, slot = (chosen == e).nonzero(as_tuple=True)  # in token order
            token, slot = token[:capacity], slot[:capacity]
            counts.append(len(token))
            if len(token):
                y = y.index_add(0, token, gates[token, slot, None] * expert(x[token]))
        trace.counts.append(counts)
        share = torch.bincount(chosen.flatten(), minlength=c.E) / (N * c.K)
        trace.balance = trace.balance + c.alpha * c.E * (share * logits.softmax(-1).mean(0)).sum()
        return y


class Block(nn.Module):
    def __init__(self, c, trace):
        super().__init__()
        self.norm1, self.norm2 = make_norm(c), make_norm(c)
        self.attention, self.moe = Attention(c), MoE(c, trace)

    def forward(self, x, eps):
        x = x + self.attention(self.norm1(x))
        return x + self.moe(self.norm2(x).flatten(0, 1), eps).view_as(x)


def make_norm(c):
    return nn.LayerNorm(c.D, eps=1e-5) if c.makemoe else RMSNorm(c.D)


class GPT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, self.trace = c, SimpleNamespace(routing_margin=math.inf, relu_margin=math.inf)
        self.token_embedding = nn.Embedding(c.V, c.D)
        if c.makemoe:
            self.position_embedding = nn.Embedding(c.context, c.D)
        self.blocks = nn.ModuleList(Block(c, self.trace) for _ in range(c.layers))
        self.norm = make_norm(c)
        self.head = nn.Linear(c.D, c.V, bias=c.makemoe)

    def forward(self, inputs, targets, step):
        """Logits, mean cross-entropy, balance loss summed over the layers."""
        self.trace.counts, self.trace.balance = [], torch.zeros(())
        x = self.token_embedding(inputs)
        if self.c.makemoe:
            x = x + self.position_embedding(torch.arange(inputs.shape[1]))
        for block, eps in zip(self.blocks, router_noise(self.c, step, inputs.numel())):
            x = block(x, torch.from_numpy(eps).to(x.dtype))
        logits = self.head(self.norm(x))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten()), self.trace.balance


def draw_weights(c, generator):
    """Random weights that are multiples of 2^-12, so that float holds them exactly."""
    weights = {}
    for path, p in GPT(c).named_parameters():
        z = torch.randn(p.shape, generator=generator)
        if "embedding" in path:
            w = z
        elif "norm" in path:
            w = 0.2 * z + (1 if path.endswith("weight") else 0)
        else:
            w = 0.3 * z if p.dim() == 1 else 1.5 * z / p.shape[1] ** 0.5
        weights[path] = (w * 4096).round() / 4096
    return weights


def with_weights(c, weights, dtype=torch.float64):
    model = GPT(c).to(dtype)
    model.load_state_dict(weights)
    return model


# --- ten steps of AdamW -----------------------------------------------------------------------------------------------
def adamw_steps(c, weights, inputs, targets, idle_experts, dtype=torch.float64):
    """idle_experts = 'skip': gradient None, AdamW passes over the tensor; 'zero': gradient of zeros."""
    model = with_weights(c, weights, dtype)
    adamw = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
    run = SimpleNamespace(losses=[], balances=[], counts=[], trace=model.trace)
    for s in range(STEPS):
        for p in model.parameters():
            p.grad = None if idle_experts == "skip" else torch.zeros_like(p)
        _, loss, balance = model(inputs[s], targets[s], step=s + 1)
        (loss + balance).backward()
        adamw.step()
        run.losses.append(loss.item())
        run.balances.append(balance.item())
        run.counts.append(model.trace.counts)
    run.weights = {path: p.detach() for path, p in model.named_parameters()}
    return run


# --- fixtures ---------------------------------------------------------------------------------------------------------
def make(c, seed):
    """The tensors and margins of one fixture, or None if this seed is unfit."""
    generator = torch.Generator().manual_seed(seed)
    weights = draw_weights(c, generator)
    inputs, targets = torch.randint(c.V, (2, *c.shape), generator=generator)
    model = with_weights(c, weights)
    logits, loss, balance = model(inputs, targets, step=0)
    (loss + balance).backward()
    trace, counts = model.trace, torch.tensor(model.trace.counts)
    grads = {path: p.grad for path, p in model.named_parameters()}
    if any(g is None for g in grads.values()) or min(trace.routing_margin, trace.relu_margin) < MARGIN:
        return None
    if c.capacity and (counts.sum(1) == inputs.numel() * c.K).any():  # pairs must be dropped in each layer
        return None
    tensors = {"inputs": inputs, "targets": targets, "logits": logits.detach(), "loss": loss.detach().view(1),
               "balance": balance.detach().view(1), "counts": counts}
    tensors |= {f"weight.{path}": w for path, w in weights.items()} | {f"grad.{path}": g for path, g in grads.items()}
    if c.noise:
        tensors["noise"] = torch.from_numpy(router_noise(c, 0, inputs.numel()))
    margins = dict(routing_margin=trace.routing_margin, relu_margin=trace.relu_margin)
    if c.step_shape:
        steps = torch.randint(c.V, (2, STEPS, *c.step_shape), generator=generator)
        tensors |= {"steps.inputs": steps[0], "steps.targets": steps[1]}
        for idle_experts in ("skip", "zero"):
            run = adamw_steps(c, weights, *steps, idle_experts)
            active = np.array(run.counts) > 0  # [STEPS, layers, E]
            idle_again = (np.logical_or.accumulate(active) & ~active).any((0, 2))
            single = adamw_steps(c, weights, *steps, idle_experts, torch.float32)  # a float run must be able to follow
            gap = max(((single.weights[path] - w).abs().max() / w.abs().max()).item()
                      for path, w in run.weights.items())
            if not idle_again.all() or min(run.trace.routing_margin, run.trace.relu_margin) < MARGIN or gap > 1e-5:
                return None
            tensors |= {f"{idle_experts}.{path}": w for path, w in run.weights.items()}
            for name in ("losses", "balances", "counts"):
                tensors[f"steps.{idle_experts}.{name}"] = torch.tensor(getattr(run, name))
            for name in ("routing_margin", "relu_margin"):
                margins[f"steps.{idle_experts}.{name}"] = getattr(run.trace, name)
        apart = max((tensors[f"skip.{path}"] - tensors[f"zero.{path}"]).abs().max().item() for path in weights)
        assert apart > 1e-3, "the two semantics must differ visibly"
    return tensors, margins


def write_safetensors(path, tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name in sorted(tensors):
        raw = tensors[name].numpy().astype("<f8").tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F64", "shape": list(tensors[name].shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    for name, options in FIXTURES.items():
        c = SimpleNamespace(**options)
        seed, made = next((seed, made) for seed in range(10000) if (made := make(c, seed)))
        tensors, margins = made
        margins = {key: f"{value:.3e}" for key, value in margins.items() if value < math.inf}
        path = pathlib.Path(__file__).with_name(name + ".safetensors")
        write_safetensors(path, tensors, {"format": "pt", "torch": torch.__version__, "seed": str(seed)} | margins
                          | {key: str(value) for key, value in options.items()})
        print(f"{path.name}: {path.stat().st_size} bytes, seed {seed}, {margins}")


if __name__ == "__main__":
    main()
