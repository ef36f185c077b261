#include <moegpt/text/byte_pairs.hpp>

#include <moegpt/core/random.hpp>

#include "../support/catch.hpp"
#include "../support/refusal.hpp"

using namespace moegpt;

namespace {

// a b -> 256, then pairs of that, so that merges of merges occur; ids of bytes are their values.
BytePairRules small_rules() {
  BytePairRules rules;
  for (int b = 0; b < 256; ++b) rules.bytes.push_back(b);
  rules.split = Split::none;
  rules.merges = {{'a', 'b', 256}, {256, 256, 257}, {'b', 'a', 258}, {257, 'a', 259}, {'a', 'a', 260}};
  rules.special = {{261, "<|end|>"}, {262, "<|end|>>"}};
  return rules;
}

std::vector<int> ids_of(const BytePairs& pairs, std::string_view text, bool special = false) {
  std::vector<int> ids;
  pairs.encode(text, ids, special);
  return ids;
}
std::string text_of(const BytePairs& pairs, const std::vector<int>& ids) {
  std::string text;
  for (const int id : ids) text += pairs.token(id);
  return text;
}

// The definition: the first merge of the list that a neighbouring pair has, leftmost first, again and again.
std::vector<int> merged_by_definition(const BytePairRules& rules, std::string_view text) {
  std::vector<int> ids;
  for (const char c : text) ids.push_back(rules.bytes[static_cast<unsigned char>(c)]);
  for (bool found = true; found;) {
    found = false;
    for (const auto& merge : rules.merges) {
      for (std::size_t i = 0; i + 1 < ids.size() && !found; ++i)
        if (ids[i] == merge.left && ids[i + 1] == merge.right) {
          ids[i] = merge.id;
          ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(i) + 1);
          found = true;
        }
      if (found) break;
    }
  }
  return ids;
}

}  // namespace

TEST_CASE("the first merge of the list is made first") {
  const BytePairs pairs(small_rules());
  CHECK(ids_of(pairs, "ab") == std::vector<int>{256});
  CHECK(ids_of(pairs, "bab") == std::vector<int>{'b', 256});
  CHECK(ids_of(pairs, "ababa") == std::vector<int>{259});
  CHECK(ids_of(pairs, "aaa") == std::vector<int>{260, 'a'});
  CHECK(ids_of(pairs, "").empty());
  CHECK(pairs.vocab() == 263);
}

TEST_CASE("short and long pretokens are merged by the definition") {
  const BytePairRules rules = small_rules();
  const BytePairs pairs(rules);
  const Key key{7};
  for (std::size_t length = 1; length < 140; ++length) {
    std::string text;
    for (std::size_t i = 0; i < length; ++i) text += "ab"[key.bits(1000 * length + i) % 2];
    CHECK(ids_of(pairs, text) == merged_by_definition(rules, text));
  }
}

TEST_CASE("a long text of one pretoken takes no more than n log n") {
  const BytePairs pairs(small_rules());
  const std::string text(1 << 20, 'a');  // 2^40 steps if each merge looked at all pairs
  CHECK(ids_of(pairs, text).size() == 1 << 19);
}

TEST_CASE("decode inverts encode for all bytes") {
  for (const Split split : {Split::none, Split::gpt2, Split::llama3, Split::qwen2}) {
    BytePairRules rules = small_rules();
    rules.split = split;
    const BytePairs pairs(rules);
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      const Key key{mix64(seed)};
      std::string text;
      for (std::size_t i = 0; i < key.bits(0) % 40; ++i)
        text += key.bits(2 * i + 1) % 2 ? static_cast<char>(key.bits(2 * i + 2) & 255)
                                        : "ab \n'"[key.bits(2 * i + 2) % 5];
      CHECK(text_of(pairs, ids_of(pairs, text)) == text);
    }
  }
}

TEST_CASE("a pretoken that comes again has the same ids") {
  BytePairRules rules = small_rules();
  rules.split = Split::gpt2;
  const BytePairs pairs(rules);
  std::string text;
  for (int i = 0; i < 3000; ++i) text += i % 3 ? " abaab" : i % 2 ? " bbabab" : "\nabba";
  std::vector<int> expected;  // of a text so short that nothing is remembered
  for_each_pretoken(text, Split::gpt2, [&](std::string_view pretoken) { pairs.encode(pretoken, expected); });
  CHECK(ids_of(pairs, text) == expected);
}

TEST_CASE("special tokens are text unless they are asked for, and the longest is taken") {
  const BytePairs pairs(small_rules());
  const std::string text = "ab<|end|>ab<|end|>>";
  CHECK(ids_of(pairs, text, true) == std::vector<int>{256, 261, 256, 262});
  const std::vector<int> plain = ids_of(pairs, text);
  CHECK(std::none_of(plain.begin(), plain.end(), [](int id) { return id >= 261; }));
  CHECK(text_of(pairs, plain) == text);
  CHECK(pairs.special("<|end|>") == 261);
  CHECK(pairs.special("ab") == -1);
}

TEST_CASE("a token that its own merges do not make is found whole only if the rules say so") {
  BytePairRules rules = small_rules();
  rules.merges = {{'a', 'b', 256}, {'b', 'c', 257}, {'a', 257, 258}};  // "abc" becomes 256 'c', never 258
  rules.special.clear();
  CHECK(ids_of(BytePairs(rules), "abc") == std::vector<int>{256, 'c'});
  rules.whole_pretokens = true;
  CHECK(ids_of(BytePairs(rules), "abc") == std::vector<int>{258});
}

TEST_CASE("rules that contradict themselves are refused") {
  const auto refused = [](auto change) {
    BytePairRules rules = small_rules();
    change(rules);
    return refusal([&] { BytePairs pairs(rules); });
  };
  CHECK_THAT(refused([](auto& r) { r.bytes.pop_back(); }),
             ContainsSubstring("ids of 255 bytes, expected 256"));
  CHECK_THAT(refused([](auto& r) { r.bytes[3] = 4; }), ContainsSubstring("two bytes have the id 4"));
  CHECK_THAT(refused([](auto& r) { r.bytes[3] = -1; }), ContainsSubstring("the id of a byte is -1"));
  CHECK_THAT(refused([](auto& r) { r.merges[0].left = 259; }), ContainsSubstring("merge 0 is of id 259"));
  CHECK_THAT(refused([](auto& r) { r.merges[2].id = 256; }),
             ContainsSubstring("two different tokens have the id 256"));
  CHECK_THAT(refused([](auto& r) { r.merges.push_back(r.merges[0]); }), ContainsSubstring("is there twice"));
  CHECK_THAT(refused([](auto& r) { r.special[0].id = 256; }),
             ContainsSubstring("has the id of another token"));
  CHECK_THAT(refused([](auto& r) { r.special[0].text = ""; }), ContainsSubstring("has no text"));
  CHECK_THAT(refused([](auto& r) { r.special[0].id = 1 << 30; }), ContainsSubstring("expected 0 .. 2097151"));
  CHECK_THAT(refused([](auto& r) { r.start = {300}; }), ContainsSubstring("a text starts with id 300"));
  CHECK_THAT(refused([](auto& r) {  // each merge doubles the token
               r.merges.clear(), r.special.clear();
               for (int i = 0, last = 'a'; i < 40; ++i, last = 255 + i)
                 r.merges.push_back({last, last, 256 + i});
             }),
             ContainsSubstring("has 8192 bytes"));
}
