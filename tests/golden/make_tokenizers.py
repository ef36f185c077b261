"""Byte-pair tokenizers trained by the package `tokenizers`, and the ids that it gives: python3 make_tokenizers.py

Writes bpe_gpt2.json, bpe_llama3.json and bpe_qwen2.json, each a tokenizer.json, and bpe_ids.json:
{"strings": [text...], "gpt2": [[id...]...], "llama3": ..., "qwen2": ...}. Made with tokenizers 0.23.3.
"""
import json
import random
import unicodedata

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = """It's the letter that they'll read: "We've seen 1,234,567 of 89 trees; I'd say you're late," he said.
The tree, the leaf, the letter and the late reader: they read the same text, and the same text reads them.
	Tabs, two  spaces, three   spaces.
Straße, naïve café, 中文字, русский текст, العربية, हिन्दी, ½ ² Ⅷ ١٢٣ 🙂🙃.


for (int i = 0; i < 10; ++i) {
    text += letters[i];
}
"""
TAIL = r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
HEAD = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"""
PATTERNS = {"llama3": HEAD + r"\p{N}{1,3}" + TAIL, "qwen2": HEAD + r"\p{N}" + TAIL}


def trained(name):
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name == "gpt2")
    if name in PATTERNS:
        split = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated", False)
        byte_level = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.pre_tokenizer = byte_level
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    if name == "llama3":
        begin = tokenizer.token_to_id("<|begin|>")
        tokenizer.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", begin)])
    return tokenizer


def strings():
    rng = random.Random(1)
    assigned = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    parts = ["'s", "'S", "'ll", "'LL", "'Ve", "'\u017f", "'", " ", "  ", "\n", "\r\n", "\t", "\u3000", "\u0085",
             "123", "4567", "the", " letter", "ß", "!?", "<|end|>", "e\u0301", "\u0327", "\u1100\u1161"]
    made = ["", TEXT]
    for _ in range(400):
        made.append("".join(
            rng.choice(parts) if rng.random() < 0.7 else chr(rng.choice(assigned)) for _ in range(rng.randint(1, 9))))
    return made


texts = strings()
result = {"strings": texts}
for name in ("gpt2", "llama3", "qwen2"):
    tokenizer = trained(name)
    tokenizer.save("bpe_%s.json" % name, pretty=False)
    result[name] = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
json.dump(result, open("bpe_ids.json", "w"), separators=(",", ":"))
