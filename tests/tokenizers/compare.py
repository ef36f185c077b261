"""compare.py ENCODE_RECORDS DIR [--strings N] [--gpt2 DIR] [TEXT...]: ids of the library and of `tokenizers`.

Vocabularies are trained on the first TEXT (or on generated words) by both; then N random strings of the code points
assigned in Unicode 14, and the TEXTs, are encoded by both. With --gpt2, a directory with vocab.bpe and encoder.json,
GPT-2's vocabulary too, by tiktoken as well.
"""
import argparse
import json
import os
import random
import struct
import subprocess
import sys
import time
import unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
try:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
except ImportError as missing:
    print(f"skipped: this Python has no package tokenizers ({missing})")
    sys.exit(77)

parser = argparse.ArgumentParser()
parser.add_argument("encode_records")
parser.add_argument("dir")
parser.add_argument("--strings", type=int, default=100000)
parser.add_argument("--gpt2")
parser.add_argument("texts", nargs="*")
args = parser.parse_intermixed_args()

rng = random.Random(1)
assigned = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
spaces = [0x20, 0x20, 0x0A, 0x0D, 0x09, 0xA0, 0x85, 0x2028, 0x3000]
contractions = ["'s", "'S", "'ll", "'LL", "'Ve", "'re", "'\u017f", "'d", "'T", "<|end|>"]


def random_string():
    kinds = [lambda: chr(rng.randint(0x20, 0x7E)), lambda: chr(rng.choice(spaces)), lambda: rng.choice(contractions),
             lambda: str(rng.randint(0, 9)), lambda: chr(rng.choice(assigned))]
    return "".join(rng.choices(kinds, [35, 10, 5, 10, 40])[0]() for _ in range(rng.randint(1, 24)))


def generated_text():
    words = ["".join(rng.choice("aeioulrnst") for _ in range(rng.randint(1, 8))) for _ in range(500)]
    return "".join(rng.choice([" ", " ", " ", ", ", ". ", "\n", " 17 "]) + rng.choice(words) for _ in range(20000))


texts = [open(path, "rb").read().decode("utf-8", "ignore") for path in args.texts] or [generated_text()]
strings = texts + [random_string() for _ in range(args.strings)]
with open(f"{args.dir}/in", "wb") as file:
    for text in strings:
        data = text.encode()
        file.write(struct.pack("<I", len(data)) + data)
megabytes = sum(len(text.encode()) for text in texts) / 1e6


def ours(tokenizer):
    done = subprocess.run([args.encode_records, tokenizer, f"{args.dir}/in", f"{args.dir}/out", "special"], check=True,
                          capture_output=True, text=True)
    data, at, result = open(f"{args.dir}/out", "rb").read(), 0, []
    while at < len(data):
        (count,) = struct.unpack_from("<I", data, at)
        result.append(list(struct.unpack_from(f"<{count}i", data, at + 4)))
        at += 4 + 4 * count
    return result, done.stdout.strip()


def compare(name, tokenizer, encode):
    mine, speed = ours(tokenizer)
    begin = time.time()
    theirs = [encode(text) for text in texts]
    seconds = time.time() - begin
    theirs += [encode(text) for text in strings[len(texts):]]
    wrong = [i for i in range(len(strings)) if mine[i] != theirs[i]]
    print(f"{name}: {len(wrong)} of {len(strings)} differ; ours {speed}, theirs {megabytes / seconds:.1f} MB/s")
    for i in wrong[:5]:
        print(" ", ascii(strings[i][:60]), mine[i][:12], theirs[i][:12])
    return len(wrong)


head = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
tail = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
patterns = {"gpt2": None, "llama3": head + r"\p{N}{1,3}" + tail, "qwen2": head + r"\p{N}" + tail}
failures = 0
open(f"{args.dir}/text", "w", newline="").write(texts[0])
for number, (name, pattern) in enumerate(patterns.items(), 1):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), "isolated", False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    begin = time.time()
    tokenizer.train_from_iterator([texts[0]], trainers.BpeTrainer(
        vocab_size=1256, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[], show_progress=False,
        min_frequency=2))
    seconds = time.time() - begin
    trained = tokenizer.to_str()
    tokenizer.add_special_tokens(["<|end|>"])
    path = f"{args.dir}/{name}.json"
    tokenizer.save(path)
    failures += compare(f"{name}, theirs", path, lambda text: tokenizer.encode(text).ids)
    path = f"{args.dir}/{name}_ours.json"
    done = subprocess.run([args.encode_records, "train", f"{args.dir}/text", "1256", str(number), path], check=True,
                          capture_output=True, text=True)
    merges = [[tuple(m) for m in json.loads(t)["model"]["merges"]] for t in (trained, open(path).read())]
    same = merges[0] == merges[1]
    print(f"{name}, training: {done.stdout.strip()}, theirs in {seconds:.3f} s; merges {'equal' if same else 'DIFFER'}")
    failures += not same
    failures += compare(f"{name}, ours", path, (lambda t: lambda text: t.encode(text).ids)(Tokenizer.from_file(path)))

if args.gpt2:
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    ranks = data_gym_to_mergeable_bpe_ranks(f"{args.gpt2}/vocab.bpe", f"{args.gpt2}/encoder.json")
    gpt2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
    encoding = tiktoken.Encoding("gpt2", pat_str=gpt2, mergeable_ranks=ranks, special_tokens={})
    failures += compare("GPT-2, tiktoken", args.gpt2, encoding.encode_ordinary)
    tokenizer = Tokenizer(models.BPE.from_file(f"{args.gpt2}/encoder.json", f"{args.gpt2}/vocab.bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    failures += compare("GPT-2, tokenizers", args.gpt2, lambda text: tokenizer.encode(text).ids)
sys.exit(failures > 0)
