"""Decodes with a dense GPT-2 in PyTorch, when told to:
  python3 decode.py FILE.safetensors --form FORM --type float|bf16 --threads N
generation.py documents the protocol.

Forms
  linear        matrices [out, in], as nn.Linear has them
  transposed    matrices [in, out]: MKL reads them faster when there is one row
  compiled      torch.compile of `linear` with frozen weights; attention over the whole cache, which has a mask
  transformers  GPT2LMHeadModel of the package transformers, as most programs have it
"""
import argparse
import inspect
import json
import os
import sys
import time

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("file")
arguments.add_argument("--form", choices=("linear", "transposed", "compiled", "transformers"), default="linear")
arguments.add_argument("--type", choices=("float", "bf16"), default="float")
arguments.add_argument("--threads", type=int, default=1)
args = arguments.parse_args()

for library in "OMP", "MKL", "OPENBLAS", "BLIS":  # libraries read these when they are loaded
    os.environ[f"{library}_NUM_THREADS"] = str(args.threads)

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from weights import GPT2  # noqa: E402

torch.set_flush_denormal(True)  # of this thread and of those it starts: before the first parallel region
torch.set_num_threads(args.threads)
torch.set_num_interop_threads(1)
DTYPE = {"float": torch.float32, "bf16": torch.bfloat16}[args.type]


def parameter(weight):
    return nn.Parameter(torch.tensor(weight).to(DTYPE), requires_grad=False)


class Map(nn.Module):
    """y = x W^T + b, with W as it is or transposed."""

    def __init__(self, weight, bias, transposed):
        super().__init__()
        self.transposed = transposed
        self.weight = parameter(weight.T.copy() if transposed else weight)
        self.bias = None if bias is None else parameter(bias)

    def forward(self, x):  # [T, K]
        if not self.transposed:
            return F.linear(x, self.weight, self.bias)
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)


class Norm(nn.Module):
    def __init__(self, weight, bias, epsilon):
        super().__init__()
        self.weight, self.bias, self.epsilon = parameter(weight), parameter(bias), epsilon

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.epsilon)


class Block(nn.Module):
    def __init__(self, model, layer, transposed):
        super().__init__()
        norm = lambda name: Norm(*model.pair(f"blocks.{layer}.{name}"), model.norm_epsilon)
        of = lambda pair: Map(*pair, transposed)
        pair = lambda name: model.pair(f"blocks.{layer}.{name}")
        self.heads = model.heads
        self.norm1, self.norm2 = norm("norm1"), norm("norm2")
        self.qkv, self.output = of(model.qkv(layer)), of(pair("attention.output"))
        self.up, self.down = of(pair("ffn.up")), of(pair("ffn.down"))
        cache = torch.zeros(1, model.heads, model.context, model.dim // model.heads, dtype=DTYPE)
        self.register_buffer("keys", cache)
        self.register_buffer("values", cache.clone())

    def forward(self, x, positions, end, mask):
        T, D = x.shape
        q, k, v = (t.view(1, T, self.heads, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(D, -1))
        self.keys.index_copy_(2, positions, k)
        self.values.index_copy_(2, positions, v)
        y = F.scaled_dot_product_attention(q, self.keys[:, :, :end], self.values[:, :, :end], attn_mask=mask)
        x = x + self.output(y.transpose(1, 2).reshape(T, D))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Decoder(nn.Module):
    """One sequence and its cache."""

    def __init__(self, model, transposed=False):
        super().__init__()
        self.context = model.context
        self.tokens = parameter(model.weights["token_embedding.weight"])
        self.positions = parameter(model.weights["position_embedding.weight"])
        self.blocks = nn.ModuleList(Block(model, layer, transposed) for layer in range(model.layers))
        self.norm = Norm(*model.pair("norm"), model.norm_epsilon)
        tied = model.head is None
        self.head = Map(model.weights["token_embedding.weight"] if tied else model.head, None, transposed)
        if tied and not transposed:
            self.head.weight = self.tokens

    def forward(self, ids, positions, end, mask=None):
        """Logits [V] after the last of ids [T]; positions [T]; keys are those before `end`, as far as mask allows."""
        x = F.embedding(ids, self.tokens) + F.embedding(positions, self.positions)
        for block in self.blocks:
            x = block(x, positions, end, mask)
        return self.head(self.norm(x[-1:]))[0]

    def begin(self, ids):
        self.length = len(ids)
        mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        return self(torch.tensor(ids), torch.arange(len(ids)), len(ids), mask)

    def next(self, id):
        self.length += 1
        return self(torch.tensor([id]), torch.tensor([self.length - 1]), self.length)


class Compiled(Decoder):
    """Every call has the same shapes, so that one graph is enough."""

    def __init__(self, model):
        super().__init__(model)
        import torch._inductor.config
        torch._inductor.config.freezing = True
        self.everywhere = torch.arange(model.context)
        self.step = torch.compile(super().forward, mode="max-autotune-no-cudagraphs", dynamic=False)

    def next(self, id):
        self.length += 1
        mask = (self.everywhere < self.length)[None]
        return self.step(torch.tensor([id]), torch.tensor([self.length - 1]), self.context, mask)


class Transformers:
    def __init__(self, model):
        try:
            from transformers import GPT2Config, GPT2LMHeadModel
        except ImportError:
            sys.exit("this form needs the package transformers")
        known = inspect.signature(GPT2LMHeadModel.forward).parameters
        self.cache_name = "cache" if "cache" in known else "past_key_values"
        names = {"ln_1": "norm1", "ln_2": "norm2", "attn.c_proj": "attention.output", "mlp.c_fc": "ffn.up",
                 "mlp.c_proj": "ffn.down"}
        state = {"transformer.wte.weight": model.weights["token_embedding.weight"],
                 "transformer.wpe.weight": model.weights["position_embedding.weight"],
                 "lm_head.weight": model.weights["token_embedding.weight"] if model.head is None else model.head}

        def add(name, pair):
            state[name + ".weight"], state[name + ".bias"] = pair[0].T, pair[1]  # Conv1D: [in, out]

        for i in range(model.layers):
            for theirs, ours in names.items():
                add(f"transformer.h.{i}.{theirs}", model.pair(f"blocks.{i}.{ours}"))
            add(f"transformer.h.{i}.attn.c_attn", model.qkv(i))
        add("transformer.ln_f", model.pair("norm"))
        self.model = GPT2LMHeadModel(GPT2Config(
            vocab_size=model.vocab, n_positions=model.context, n_embd=model.dim, n_layer=model.layers,
            n_head=model.heads, n_inner=model.hidden, layer_norm_epsilon=model.norm_epsilon,
            tie_word_embeddings=model.head is None)).to(DTYPE).eval()
        self.model.load_state_dict({name: torch.tensor(weight.copy()) for name, weight in state.items()})

    def begin(self, ids):
        self.cache = None
        return self.read(ids)

    def next(self, id):
        return self.read([id])

    def read(self, ids):
        out = self.model(torch.tensor([ids]), use_cache=True, logits_to_keep=1, **{self.cache_name: self.cache})
        self.cache = getattr(out, self.cache_name)
        return out.logits[0, -1]


def say(**what):
    print(json.dumps(what), flush=True)


def decode(decoder, count, prompt):
    logits = decoder.begin(prompt)
    first, ids, times = logits[::64].float().tolist(), [], []
    id = int(logits.argmax())
    for _ in range(count):
        start = time.perf_counter()
        id = int(decoder.next(id).argmax())
        times.append(1e3 * (time.perf_counter() - start))
        ids.append(id)
    return dict(ms=times, ids=ids, logits=first)


with torch.inference_mode():
    model = GPT2(args.file)
    decoder = {"linear": Decoder, "transposed": lambda model: Decoder(model, transposed=True), "compiled": Compiled,
               "transformers": Transformers}[args.form](model)
    decode(decoder, 4, [0])  # to compile, and to warm up
    say(name=f"torch {torch.__version__.split('+')[0]}")
    for line in sys.stdin:
        command, count, *prompt = line.split()
        say(**decode(decoder, int(count), [int(id) for id in prompt]))
