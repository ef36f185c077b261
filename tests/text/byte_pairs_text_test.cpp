#include <moegpt/text/tokenizer.hpp>
#include <moegpt/text/train_byte_pairs.hpp>

#include "../support/catch.hpp"
#include "../support/refusal.hpp"

using namespace moegpt;

namespace {

BytePairRules trained(Split split) {
  BytePairTrainer trainer({.vocab = 300, .split = split, .special = {"<|end|>", "a\\b\n\t", "\u00e9"}});
  trainer.add("the cat and the hat sat on the mat, and the rat that the cat sat on");
  return trainer.train();
}

}  // namespace

TEST_CASE("byte pairs survive their text") {
  for (const Split split : {Split::none, Split::gpt2, Split::llama3, Split::qwen2}) {
    BytePairRules rules = trained(split);
    rules.whole_pretokens = split == Split::llama3;
    rules.nfc = split == Split::llama3 || split == Split::qwen2;
    rules.start = {3, 4};
    if (split == Split::qwen2)
      std::swap(rules.bytes[0], rules.bytes[1]), std::swap(rules.merges[0].id, rules.merges[9].id);
    CHECK(byte_pairs_from_text(to_text(rules)) == rules);
  }
}

TEST_CASE("a tokenizer of byte pairs is a value with one string of state") {
  const Tokenizer tokenizer = Tokenizer::byte_pairs(trained(Split::gpt2));
  const Tokenizer copy = tokenizer, read = Tokenizer::from_text(tokenizer.to_text());
  CHECK(copy == tokenizer);
  CHECK(read == tokenizer);
  CHECK(!(read == Tokenizer::bytes()));
  CHECK(!(read == Tokenizer::byte_pairs(trained(Split::qwen2))));
  CHECK(tokenizer.vocab() == tokenizer.byte_pairs()->vocab());
  const std::string text = "the \u4e2d\xff hat";
  CHECK(tokenizer.knows(text));
  CHECK(tokenizer.encode(text).size() < text.size());
  CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  const int vocab = tokenizer.vocab();
  CHECK_THAT(refusal([&] { tokenizer.decode(std::vector<int>{vocab}); }),
             ContainsSubstring("is outside [0, "));
}

TEST_CASE("a text that is not of byte pairs is refused with its line") {
  const std::string text = to_text(trained(Split::gpt2));
  const auto refused = [](const std::string& changed) {
    return refusal([&] { byte_pairs_from_text(changed); });
  };
  const auto with = [&](std::string_view from, std::string_view to) {
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    return refused(changed);
  };
  CHECK_THAT(with("gpt2", "gpt3"), ContainsSubstring("line 1 "));
  CHECK_THAT(with("gpt2", "gpt2 x"), ContainsSubstring("the end of the line, found 'x'"));
  CHECK_THAT(with("bytes gpt2", "bytes 1 2"), ContainsSubstring("line 2 "));
  CHECK_THAT(with("merges ", "merge "),
             ContainsSubstring("line 3 of the byte pairs of a tokenizer: expected merges"));
  CHECK_THAT(with("merges ", "merges 9"), ContainsSubstring("expected a number of an id"));
  CHECK_THAT(with("merges ", "merges -"), ContainsSubstring("found '-"));
  CHECK_THAT(with("a\\\\b", "a\\xb"), ContainsSubstring("expected \\\\, \\n, \\r or \\t"));
  CHECK_THAT(refused(text + "x\n"), ContainsSubstring("expected the end of the text"));
  CHECK_THAT(refused("split gpt2"), ContainsSubstring("expected a line"));
  for (std::size_t size = 0; size + 1 < text.size(); size += 7) CHECK(refused(text.substr(0, size)) != "");
}
