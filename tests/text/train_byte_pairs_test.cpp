#include <moegpt/text/train_byte_pairs.hpp>

#include "../support/catch.hpp"
#include "../support/refusal.hpp"

using namespace moegpt;

namespace {

std::vector<std::string> merges_of(const BytePairRules& rules) {
  const BytePairs pairs(rules);
  std::vector<std::string> texts;
  for (const auto& merge : rules.merges) {
    std::string text(pairs.token(merge.left));
    text += '+';
    text += pairs.token(merge.right);
    texts.push_back(text);
  }
  return texts;
}

}  // namespace

TEST_CASE("the most frequent pair becomes a token, again and again") {
  BytePairTrainer trainer({.vocab = 300, .special = {}});
  trainer.add(
      "low low low low low lower lower newest newest newest newest newest newest widest widest widest");
  // Sennrich et al. 2016 train on these words; here a space belongs to the word behind it.
  const BytePairRules rules = trainer.train();
  const std::vector<std::string> merges = merges_of(rules);
  REQUIRE(merges.size() > 5);
  CHECK(std::vector<std::string>(merges.begin(), merges.begin() + 4) ==
        std::vector<std::string>{"e+s", "es+t", "l+o", "lo+w"});
  CHECK(rules.merges[0].id == 256);
}

TEST_CASE("a vocabulary has the size asked for, with special tokens last") {
  BytePairTrainer trainer({.vocab = 260, .special = {"<|a|>", "<|b|>"}});
  trainer.add("abcabcabcabc abcabc");
  const BytePairs pairs(trainer.train());
  CHECK(pairs.vocab() == 260);
  CHECK(pairs.special("<|a|>") == 258);
  CHECK(pairs.special("<|b|>") == 259);
}

TEST_CASE("training ends when no pair is frequent enough") {
  BytePairTrainer trainer({.vocab = 1000, .special = {}, .min_count = 3});
  trainer.add("xy xy xy uv uv");
  CHECK(merges_of(trainer.train()) == std::vector<std::string>{"x+y"});  // " xy" occurs twice
}

TEST_CASE("two pairs with the same bytes make one token") {
  BytePairTrainer trainer({.vocab = 262, .split = Split::none, .special = {}});
  for (const char* text : {"ab", "ab", "ab", "ab", "bc", "bc", "bc", "abc", "abc", "xbc", "aybc"})
    trainer.add(text);
  const BytePairRules rules = trainer.train();
  const BytePairs pairs(rules);
  for (std::size_t i = 0; i < rules.merges.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      CHECK((rules.merges[i].id == rules.merges[j].id) ==
            (pairs.token(rules.merges[i].id) == pairs.token(rules.merges[j].id)));
}

TEST_CASE("the order in which texts are added does not matter") {
  BytePairTrainer one({.vocab = 300}), two({.vocab = 300});
  const char* texts[] = {"the cat and the hat", " sat on that mat", "\nand the rat"};
  for (int i = 0; i < 3; ++i) one.add(texts[i]), two.add(texts[2 - i]);
  CHECK(one.train() == two.train());
  CHECK(one.train() == one.train());
}

TEST_CASE("a vocabulary that cannot hold bytes and special tokens is refused") {
  CHECK_THAT(refusal([] { BytePairTrainer trainer({.vocab = 256}); }),
             ContainsSubstring("a vocabulary of 256 ids"));
  CHECK_THAT(refusal([] { BytePairTrainer trainer({.min_count = 0}); }), ContainsSubstring("min_count is 0"));
}
