"""The benchmark's models in PyTorch: the same mathematics and the same parameters as the library's.

A mixture of experts comes in three forms. All send token n to the experts with the K largest logits, weigh their
outputs by a softmax over those logits, and with a capacity drop what an expert gets too much of, in token order.
  loop     each expert looks for its tokens, as most programs have it (makeMoE among them)
  grouped  pairs (token, expert) are sorted by expert once; each expert multiplies a slice
  padded   the same, but every expert has room for equally many tokens: two batched products for all experts
"""
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Workload:
    vocab: int
    length: int          # tokens of a sequence, and the model's context
    batch: int
    dim: int
    heads: int
    layers: int
    hidden: int          # width of an expert
    experts: int = 0     # 0: one dense feed-forward network in each block
    active: int = 0
    noisy: bool = False            # router: biases, and noise on its logits
    capacity: float = 0            # times the fair share of pairs; 0: all
    dropout: float = 0
    scale: float = 0               # of attention's products; 0: 1 / sqrt(dim / heads)
    activation: str = "gelu"       # its tanh form; or relu
    qkv_bias: bool = False
    head_bias: bool = False
    tied: bool = True              # head and token embedding share their weight
    heads_apart: bool = False      # published form: three small maps for each head
    makemoe_init: bool = False
    learning_rate: float = 3e-4


GPT2 = dict(vocab=50257, batch=4, dim=768, heads=12, layers=12, hidden=3072, qkv_bias=True)
FINE = dict(length=256, batch=4, dim=512, heads=8, layers=8, hidden=256, experts=64, active=8)
WORKLOADS = {
    "a": Workload(vocab=65, length=32, batch=16, dim=128, heads=8, layers=8, hidden=512, experts=8, active=2,
                  noisy=True, capacity=1, dropout=0.1, scale=128**-0.5, activation="relu", head_bias=True,
                  tied=False, makemoe_init=True, learning_rate=1e-3),
    "b": Workload(**GPT2, length=256, experts=8, active=2),
    "b2": Workload(**GPT2 | dict(layers=2), length=256, experts=8, active=2),
    "c": Workload(**FINE, vocab=65),
    "cv": Workload(**FINE, vocab=50257),
    "dense": Workload(**GPT2, length=64),
}


# --- attention --------------------------------------------------------------------------------------------------------
def attend(q, k, v, future, scale, dropout):
    """q k v [..., T, d]; future [T, T] is -inf where a key is later than the query."""
    if not dropout and hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    weights = torch.softmax((q * scale) @ k.transpose(-2, -1) + future, -1)
    return (F.dropout(weights, dropout) if dropout else weights) @ v


class Attention(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.heads, self.scale, self.dropout = w.heads, w.scale or (w.dim // w.heads) ** -0.5, w.dropout
        self.qkv = nn.Linear(w.dim, 3 * w.dim, bias=w.qkv_bias)
        self.output = nn.Linear(w.dim, w.dim)

    def forward(self, x, future):
        B, T, D = x.shape
        q, k, v = (t.view(B, T, self.heads, -1).transpose(1, 2) for t in self.qkv(x).split(D, -1))
        y = attend(q, k, v, future, self.scale, self.dropout)
        return self.output(y.transpose(1, 2).reshape(B, T, D))


class AttentionHeadsApart(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.scale, self.dropout, width = w.scale, w.dropout, w.dim // w.heads
        maps = lambda: nn.ModuleList(nn.Linear(w.dim, width, bias=False) for _ in range(w.heads))
        self.query, self.key, self.value = maps(), maps(), maps()
        self.output = nn.Linear(w.dim, w.dim)

    def forward(self, x, future):
        heads = zip(self.query, self.key, self.value)
        return self.output(torch.cat([attend(q(x), k(x), v(x), future, self.scale, self.dropout)
                                      for q, k, v in heads], -1))


# --- mixture of experts -----------------------------------------------------------------------------------------------
def activate(w, x):
    return F.relu(x) if w.activation == "relu" else F.gelu(x, approximate="tanh")


class Expert(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = w
        self.up, self.down = nn.Linear(w.dim, w.hidden), nn.Linear(w.hidden, w.dim)

    def forward(self, x):
        y = self.down(activate(self.w, self.up(x)))
        return F.dropout(y, self.w.dropout) if self.w.dropout else y


class Router(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.active = w.active
        self.gate = nn.Linear(w.dim, w.experts, bias=w.noisy)
        self.noise = nn.Linear(w.dim, w.experts) if w.noisy else None

    def forward(self, x):
        """Experts of each token [N, K] and their gates [N, K]."""
        logits = self.gate(x)
        if self.noise is not None:
            logits = logits + torch.randn_like(logits) * F.softplus(self.noise(x))
        top, chosen = logits.topk(self.active, -1)
        return chosen, top.softmax(-1)


class Mixture(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w, self.router = w, Router(w)

    def room(self, tokens):
        """Pairs an expert takes at most."""
        return int(tokens * self.w.active / self.w.experts * self.w.capacity) if self.w.capacity else tokens


class LoopMixture(Mixture):
    def __init__(self, w):
        super().__init__(w)
        self.experts = nn.ModuleList(Expert(w) for _ in range(w.experts))

    def forward(self, x):  # [N, D]
        chosen, gates = self.router(x)
        spread = torch.zeros(len(x), self.w.experts).scatter(1, chosen, gates)
        y, room = torch.zeros_like(x), self.room(len(x))
        for e, expert in enumerate(self.experts):
            token = (chosen == e).any(-1).nonzero().squeeze(1)[:room]
            if len(token):
                y.index_add_(0, token, expert(x[token]) * spread[token, e, None])
        return y


def take(x, index, spare):
    """x[index]; spare: the row after the last is zero."""
    return (F.pad(x, (0, 0, 0, 1)) if spare else x).index_select(0, index)


class Dispatch(torch.autograd.Function):
    """Rows of experts from tokens: rows[r] = x[token[r]]. Its adjoint is a gather, too: no scattered additions."""

    @staticmethod
    def forward(ctx, x, token, row, spare):
        ctx.save_for_backward(token, row)
        ctx.spare = spare
        return take(x, token, spare)

    @staticmethod
    def backward(ctx, d_rows):
        token, row = ctx.saved_tensors
        return take(d_rows, row.flatten(), ctx.spare).view(*row.shape, -1).sum(1), None, None, None


class Combine(torch.autograd.Function):
    """Tokens from rows of experts: y[n] = sum_j rows[row[n, j]], the adjoint of Dispatch."""

    @staticmethod
    def forward(ctx, rows, token, row, spare):
        ctx.save_for_backward(token, row)
        ctx.spare = spare
        return take(rows, row.flatten(), spare).view(*row.shape, -1).sum(1)

    @staticmethod
    def backward(ctx, dy):
        token, row = ctx.saved_tensors
        return take(dy, token, ctx.spare), None, None, None


def rank_in_expert(expert, experts):
    """How many earlier pairs chose the same expert, for each pair."""
    return F.one_hot(expert, experts).cumsum(0).gather(1, expert[:, None]).squeeze(1) - 1


class GroupedMixture(Mixture):
    def __init__(self, w):
        super().__init__(w)
        self.experts = nn.ModuleList(Expert(w) for _ in range(w.experts))

    def forward(self, x):  # [N, D]
        w, N = self.w, len(x)
        chosen, gates = self.router(x)
        expert = chosen.flatten()  # of each pair
        if w.capacity:  # a dropped pair belongs to no expert and sorts last
            expert = expert.masked_fill(rank_in_expert(expert, w.experts) >= self.room(N), w.experts)
        counts = expert.bincount(minlength=w.experts)[:w.experts].tolist()
        kept = sum(counts)
        order = expert.sort(stable=True).indices
        row = torch.empty_like(order).scatter_(0, order, torch.arange(len(order))).clamp_(max=kept).view(N, w.active)
        order = order[:kept]
        plan = (torch.div(order, w.active, rounding_mode="floor"), row, kept < row.numel())
        rows = Dispatch.apply(x, *plan).split(counts)
        rows = torch.cat([expert(r) for expert, r in zip(self.experts, rows) if len(r)])
        return Combine.apply(rows * gates.flatten().index_select(0, order)[:, None], *plan)


class PaddedMixture(Mixture):
    def __init__(self, w):
        super().__init__(w)
        parameter = lambda *shape: nn.Parameter(torch.empty(w.experts, *shape))
        self.up_weight, self.up_bias = parameter(w.hidden, w.dim), parameter(1, w.hidden)
        self.down_weight, self.down_bias = parameter(w.dim, w.hidden), parameter(1, w.dim)
        for p, fan_in in (self.up_bias, w.dim), (self.down_bias, w.hidden):
            nn.init.uniform_(p, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, x):  # [N, D]
        w, N = self.w, len(x)
        chosen, gates = self.router(x)
        expert = chosen.flatten()
        rank = rank_in_expert(expert, w.experts)
        room = self.room(N) if w.capacity else int(rank.max()) + 1
        slots = w.experts * room
        row = torch.where(rank < room, expert * room + rank, torch.full_like(rank, slots))  # slots: dropped
        pair = torch.full((slots + 1,), N * w.active).scatter_(0, row, torch.arange(N * w.active))[:slots]
        plan = (torch.div(pair, w.active, rounding_mode="floor"), row.view(N, w.active), True)
        rows = Dispatch.apply(x, *plan).view(w.experts, room, w.dim)
        rows = activate(w, torch.baddbmm(self.up_bias, rows, self.up_weight.transpose(1, 2)))
        rows = torch.baddbmm(self.down_bias, rows, self.down_weight.transpose(1, 2)).view(slots, w.dim)
        rows = F.dropout(rows, w.dropout) if w.dropout else rows
        return Combine.apply(rows * F.pad(gates.flatten(), (0, 1)).index_select(0, pair)[:, None], *plan)


FORMS = {"loop": LoopMixture, "grouped": GroupedMixture, "padded": PaddedMixture, "dense": Expert}


# --- the model --------------------------------------------------------------------------------------------------------
class Block(nn.Module):
    def __init__(self, w, mixture):
        super().__init__()
        self.dropout = w.dropout
        self.norm1, self.norm2 = nn.LayerNorm(w.dim), nn.LayerNorm(w.dim)
        self.attention = AttentionHeadsApart(w) if w.heads_apart else Attention(w)
        self.mixture = mixture(w)

    def forward(self, x, future):
        a = self.attention(self.norm1(x), future)
        x = x + (F.dropout(a, self.dropout) if self.dropout else a)
        return x + self.mixture(self.norm2(x).flatten(0, 1)).view_as(x)


class GPT(nn.Module):
    def __init__(self, w, form):
        super().__init__()
        self.w = w
        self.token_embedding = nn.Embedding(w.vocab, w.dim)
        self.position_embedding = nn.Embedding(w.length, w.dim)
        self.blocks = nn.ModuleList(Block(w, FORMS[form]) for _ in range(w.layers))
        self.norm = nn.LayerNorm(w.dim)
        self.head = nn.Linear(w.dim, w.vocab, bias=w.head_bias)
        if w.tied:
            self.head.weight = self.token_embedding.weight
        self.register_buffer("future", torch.full((w.length, w.length), -math.inf).triu(1), persistent=False)
        for path, p in self.named_parameters():
            initialise(path, p, w)

    def forward(self, inputs, targets):
        x = self.token_embedding(inputs) + self.position_embedding.weight[:inputs.shape[1]]
        for block in self.blocks:
            x = block(x, self.future)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())




def initialise(path, p, w):
    if "norm" in path:
        return
    if "bias" in path:
        return None if w.makemoe_init else nn.init.zeros_(p)
    deviation = 0.02
    if w.makemoe_init:
        deviation = 1 if "embedding" in path else (2 / p.shape[-1]) ** 0.5
    elif "attention.output" in path or "down" in path:
        deviation = 0.02 / (2 * w.layers) ** 0.5
    nn.init.normal_(p, std=deviation)


# --- data: the same ids for everyone, as frequent as Zipf's law has words: P(id) ~ 1 / (id + 1) ------------------------
M64, GOLDEN = 2**64 - 1, 0x9E3779B97F4A7C15


def uniform(key, counter):
    """core/random.hpp: Key{key}.uniform(counter)"""
    z = (key + (counter + 1) * GOLDEN) & M64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def batch(w, number):
    """Inputs and targets [B, T] of batch `number`."""
    ids = [min(w.vocab, int((w.vocab + 1) ** uniform(number, i))) - 1 for i in range(w.batch * (w.length + 1))]
    ids = torch.tensor(ids).view(w.batch, w.length + 1)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def kept_share(model, data):
    """Share of pairs that experts compute on this batch; the others are dropped."""
    w, share = model.w, []

    def look(router, arguments, result):
        chosen = result[0]
        room = int(chosen.numel() / w.experts * w.capacity) if w.capacity else chosen.numel()
        share.append(chosen.flatten().bincount().clamp(max=room).sum().item() / chosen.numel())

    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, Router)]
    with torch.no_grad():
        model(*data)
    for hook in hooks:
        hook.remove()
    return sum(share) / len(share) if share else 1
