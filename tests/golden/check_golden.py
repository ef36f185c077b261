#!/usr/bin/env python3
"""Checks the fixtures of make_golden.py against the same mathematics written a second time, as plain loops over tokens
in numpy: logits and loss directly, each gradient along a random direction by central differences.
"""
import json
import math
import pathlib
from types import SimpleNamespace

import numpy as np


def read_safetensors(path):
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    metadata = header.pop("__metadata__")
    if "capacity" not in metadata:  # not of make_golden.py
        return metadata, {}
    return metadata, {name: np.frombuffer(raw[start:][slice(*t["data_offsets"])], "<f8").reshape(t["shape"])
                      for name, t in header.items()}


def loss_of(c, w, inputs, targets, eps):
    """Logits [B, T, V], cross-entropy + balance loss, and the pairs each expert computed [layers, E]."""

    def norm(x, path):
        x = x - x.mean() if c.makemoe else x
        return x / math.sqrt(x @ x / len(x) + 1e-5) * w[path + ".weight"] + w.get(path + ".bias", 0)

    def linear(x, path):
        return w[path + ".weight"] @ x + w.get(path + ".bias", 0)

    def heads(x, path, t, turn):
        x = linear(x, path).reshape(-1, c.dk)
        if c.makemoe or not turn:
            return x
        z = (x[:, :c.dk // 2] + 1j * x[:, c.dk // 2:]) * np.exp(1j * t * 10000.0 ** (-np.arange(0, c.dk, 2) / c.dk))
        return np.concatenate([z.real, z.imag], 1)

    def expert(x, path):
        if c.makemoe:
            return linear(np.maximum(linear(x, path + ".up"), 0), path + ".down")
        a = linear(x, path + ".gate")
        return linear(a / (1 + np.exp(-a)) * linear(x, path + ".up"), path + ".down")

    def softmax(z):
        p = np.exp(z - np.max(z))
        return p / p.sum()

    B, T = inputs.shape
    N, extra, counts = B * T, 0.0, []
    x = [w["token_embedding.weight"][inputs[n // T, n % T]] for n in range(N)]
    if c.makemoe:
        x = [x[n] + w["position_embedding.weight"][n % T] for n in range(N)]
    for layer in range(c.layers):
        at, moe = f"blocks.{layer}.attention", f"blocks.{layer}.moe"
        q, k, v = ([heads(norm(x[n], f"blocks.{layer}.norm1"), f"{at}.{name}", n % T, name != "value")
                    for n in range(N)] for name in ("query", "key", "value"))
        for n in range(N):
            past, out = range(n - n % T, n + 1), []
            for head in range(c.H):
                g = head * c.Hk // c.H
                p = softmax([c.scale * q[n][head] @ k[j][g] for j in past])
                out.append(sum(p[i] * v[j][g] for i, j in enumerate(past)))
            x[n] = x[n] + linear(np.concatenate(out), at + ".output")
        capacity = int(N * c.K / c.E * c.capacity) if c.capacity else N
        used, chosen, P = np.zeros(c.E), np.zeros(c.E), np.zeros(c.E)
        for n in range(N):
            u = norm(x[n], f"blocks.{layer}.norm2")
            z = h = linear(u, moe + ".router.gate")
            if c.makemoe:
                h = z + eps[layer, n] * np.log1p(np.exp(linear(u, moe + ".router.noise")))
            best = np.argsort(-h)[:c.K]
            P += softmax(z) / N
            for e, gate in zip(best, softmax(h[best])):
                chosen[e] += 1
                if used[e] < capacity:
                    used[e] += 1
                    x[n] = x[n] + gate * expert(u, f"{moe}.experts.{e}")
        counts.append(used)
        extra += c.alpha * c.E * (chosen / (N * c.K)) @ P
    logits = np.array([linear(norm(x[n], "norm"), "head") for n in range(N)])
    loss = np.mean([-np.log(softmax(logits[n])[targets[n // T, n % T]]) for n in range(N)])
    return logits.reshape(B, T, -1), loss + extra, counts


def main():
    for path in sorted(pathlib.Path(__file__).parent.glob("*.safetensors")):
        metadata, file = read_safetensors(path)
        if not file:
            continue
        c = SimpleNamespace(**{key: json.loads(metadata[key].lower()) for key in (
            "D", "H", "Hk", "dk", "layers", "E", "K", "scale", "makemoe", "capacity", "alpha")})
        w = {name[7:]: t for name, t in file.items() if name.startswith("weight.")}
        inputs, targets = (file[name].astype(int) for name in ("inputs", "targets"))
        eps = file.get("noise", np.zeros((c.layers, inputs.size, c.E)))
        logits, total, counts = loss_of(c, w, inputs, targets, eps)
        assert np.abs(logits - file["logits"]).max() < 1e-12
        assert abs(total - file["loss"][0] - file["balance"][0]) < 1e-12
        assert (counts == file["counts"]).all()
        rng, delta, worst = np.random.default_rng(0), 1e-5, 0.0
        for name in w:
            d = rng.standard_normal(w[name].shape)
            d /= np.linalg.norm(d)
            up, down = (loss_of(c, w | {name: w[name] + s * d}, inputs, targets, eps)[1] for s in (delta, -delta))
            worst = max(worst, abs((up - down) / (2 * delta) - (file["grad." + name] * d).sum()))
        assert worst < 1e-8, worst
        print(f"{path.name}: {len(file)} tensors, worst gradient difference {worst:.1e}")


if __name__ == "__main__":
    main()
