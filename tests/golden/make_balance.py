#!/usr/bin/env python3
"""Writes balance.safetensors beside this file: /usr/bin/python3 tests/golden/make_balance.py (a second).

Losses of routers and their gradients by the logits, from PyTorch in float64, written from the formulas of the
systems they are named after. Every tensor F64; the same torch gives the same bytes.

logits [layers,N,E]   3 mixtures, N = 2 sequences x 6 tokens, E = 5, K = 2. Of each loss NAME: NAME [1], d.NAME
                      [layers,N,E]; the suffix .padded leaves the last two tokens of the second sequence out
  huggingface         all layers' tokens in one: E sum_j sum_e f_je P_e, f_je share of tokens whose j-th choice is e
  megablocks          E / (layers N K) sum_l sum_e count_le P_le
  gshard              per layer E sum_e f_e P_e, f the share of first choices; summed over layers
  deepseek            per layer and sequence sum_e (E / (K T)) count_e P_e; mean over sequences, sum over layers
  variance            unbiased variance over experts of P; sum over layers
  count               mean over experts of (c_e - mean c)^2, c_e = sum of scores; sum over layers

clean, spread [M,F]   one noisy router, M = 9, F = 6, K = 2: h = clean + eps d, d = softplus(spread) + 0.01,
eps [M,F]             eps[n, e] = key.normal(n F + e), key = Key{mix64(7)}.with(Purpose::router_noise)
  load [F]            sum_n Phi((clean - psi) / d), psi the (K+1)-th largest h of the token for experts above it, the
                      K-th for the others (Shazeer et al. 2017, as Tensor2Tensor has it)
  of NAME: NAME [1], dc.NAME and da.NAME [M,F], gradients by clean and spread
    importance, load_loss            CV^2 of sums of gates, and of load, with population variance
    importance.unbiased, load_loss.unbiased    likewise with / (F - 1)
    load_loss.detached               psi a constant

Seeds are redrawn until no routing tie is nearer than MARGIN.
"""
import pathlib

import torch
from torch.nn import functional as F

from make_golden import MARGIN, ROUTER_NOISE, key_with, mix64, normal, write_safetensors

LAYERS, B, T, E, K = 3, 2, 6, 5, 2
ROWS, EXPERTS = 9, 6


def margin(h, k):
    best = h.sort(-1, descending=True).values
    return min((best[..., j] - best[..., j + 1]).min().item() for j in range(k + 1))


def huggingface(z, keep):
    score = z.softmax(-1)[:, keep].flatten(0, 1)
    used = F.one_hot(score.topk(K, -1).indices, E).double()  # [tokens of all layers, K, E]
    return E * (used.mean(0) * score.mean(0)).sum()


def each_layer(z, keep, f):
    return sum(f(layer.softmax(-1), layer.softmax(-1).topk(K, -1).indices, keep) for layer in z)


def counts(chosen):
    return F.one_hot(chosen, E).double().flatten(0, -2).sum(0)


def megablocks(score, chosen, keep):
    return E / (LAYERS * keep.sum() * K) * (counts(chosen[keep]) * score[keep].mean(0)).sum()


def gshard(score, chosen, keep):
    return E * (counts(chosen[keep][:, :1]) / keep.sum() * score[keep].mean(0)).sum()


def deepseek(score, chosen, keep):
    losses = []
    for b in range(B):
        own = torch.zeros_like(keep)
        own[b * T:(b + 1) * T] = keep[b * T:(b + 1) * T]
        losses.append((E / (K * own.sum()) * counts(chosen[own]) * score[own].mean(0)).sum())
    return sum(losses) / B


def variance(score, chosen, keep):
    return score[keep].mean(0).var(unbiased=True)


def count(score, chosen, keep):
    return score[keep].sum(0).var(unbiased=False)


def balance_tensors(generator):
    z = torch.randn(LAYERS, B * T, E, generator=generator)
    if margin(z, K) < MARGIN:
        return None
    tensors = {"logits": z}
    everything, padded = torch.ones(B * T, dtype=torch.bool), torch.ones(B * T, dtype=torch.bool)
    padded[-2:] = False
    for f in (huggingface, megablocks, gshard, deepseek, variance, count):
        for suffix, keep in (("", everything), (".padded", padded)):
            leaf = z.clone().requires_grad_()
            loss = f(leaf, keep) if f is huggingface else each_layer(leaf, keep, f)
            tensors[f.__name__ + suffix] = loss.detach().view(1)
            tensors[f"d.{f.__name__}{suffix}"], = torch.autograd.grad(loss, leaf)
    return tensors


def cv_squared(v, unbiased):
    return v.var(unbiased=unbiased) / (v.mean() ** 2 + 1e-10)


def load_tensors(generator):
    clean = torch.randn(ROWS, EXPERTS, generator=generator)
    spread = torch.randn(ROWS, EXPERTS, generator=generator)
    key = key_with(mix64(7), ROUTER_NOISE, 0)
    eps = torch.tensor([[normal(key, n * EXPERTS + e) for e in range(EXPERTS)] for n in range(ROWS)])
    if margin(clean + eps * (F.softplus(spread) + 0.01), K) < MARGIN:
        return None
    tensors = {"clean": clean, "spread": spread, "eps": eps}

    def run(name, unbiased, detached):
        c, a = clean.clone().requires_grad_(), spread.clone().requires_grad_()
        d = F.softplus(a) + 0.01
        h = c + eps * d
        best, chosen = h.topk(K + 1, -1)
        gates = torch.zeros_like(h).scatter(1, chosen[:, :K], best[:, :K].softmax(-1))
        ahead, behind = best[:, K:K + 1], best[:, K - 1:K]
        psi = torch.where(h > ahead, ahead, behind)
        if detached:
            psi = psi.detach()
        load = (0.5 * (1 + torch.erf((c - psi) / (2 ** 0.5 * d)))).sum(0)
        tensors["load"] = load.detach()
        loss = cv_squared(gates.sum(0) if name.startswith("importance") else load, unbiased)
        tensors[name] = loss.detach().view(1)
        tensors["dc." + name], tensors["da." + name] = torch.autograd.grad(loss, (c, a))

    run("importance", False, False)
    run("importance.unbiased", True, False)
    run("load_loss", False, False)
    run("load_loss.unbiased", True, False)
    run("load_loss.detached", False, True)
    return tensors


def redrawn(make):
    return next((seed, made) for seed in range(1000) if (made := make(torch.Generator().manual_seed(seed))))


def main():
    (seed, losses), (load_seed, loads) = redrawn(balance_tensors), redrawn(load_tensors)
    path = pathlib.Path(__file__).with_name("balance.safetensors")
    write_safetensors(path, losses | loads, {"format": "pt", "torch": torch.__version__, "seed": str(seed),
                                             "load_seed": str(load_seed)})
    print(f"{path.name}: {path.stat().st_size} bytes, seeds {seed} and {load_seed}")


if __name__ == "__main__":
    main()
