#include <moegpt/text/split.hpp>

#include <moegpt/core/random.hpp>

#include "../support/catch.hpp"

#include <vector>

#ifdef MOEGPT_HAVE_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#endif

using namespace moegpt;

namespace {

using Pretokens = std::vector<std::string>;

Pretokens pretokens(std::string_view text, Split split) {
  Pretokens all;
  for_each_pretoken(text, split, [&](std::string_view pretoken) { all.emplace_back(pretoken); });
  return all;
}

// Texts of characters that the patterns tell apart.
std::string random_text(std::uint64_t seed, std::size_t parts_count = 12) {
  static const char* const parts[] = {"'",      "s",      "S",          "l",      "ve",  "re",     " ",
                                      "  ",     "\n",     "\r",         "\t",     "1",   "2345",   "\u0663",
                                      "\u00bd", "\u00e9", "Z",          "!",      "?!",  "\u3000", "-",
                                      "\u0085", "\u4e2d", "\U0001f642", "\u017f", "the", "_",      "\u00a0"};
  const Key key{mix64(seed)};
  std::string text;
  for (std::size_t i = 0; i < parts_count; ++i) text += parts[key.bits(i) % std::size(parts)];
  return text;
}

}  // namespace

TEST_CASE("GPT-2's pattern divides as its regular expression") {
  CHECK(pretokens("Hello, world! I'm  MoE-GPT 2026\n\n", Split::gpt2) ==
        Pretokens{"Hello", ",", " world", "!", " I", "'m", " ", " MoE", "-", "GPT", " 2026", "\n\n"});
  CHECK(pretokens("they'll  \n x", Split::gpt2) == Pretokens{"they", "'ll", "  \n", " x"});
  CHECK(pretokens("I'LL", Split::gpt2) == Pretokens{"I", "'", "LL"});
  CHECK(pretokens("caf\u00e9 \u4e2d\u00bd", Split::gpt2) == Pretokens{"caf\u00e9", " \u4e2d", "\u00bd"});
}

TEST_CASE("Llama 3 and Qwen 2 divide numbers, newlines and contractions differently") {
  CHECK(pretokens("I'LL pay 12345;\n\n  x", Split::llama3) ==
        Pretokens{"I", "'LL", " pay", " ", "123", "45", ";\n\n", " ", " x"});
  CHECK(pretokens("I'LL pay 123", Split::qwen2) == Pretokens{"I", "'LL", " pay", " ", "1", "2", "3"});
  CHECK(pretokens("a \n \n b", Split::llama3) == Pretokens{"a", " \n \n", " b"});
  CHECK(pretokens(".net\tx", Split::llama3) == Pretokens{".net", "\tx"});
}

TEST_CASE("pretokens are the text, in order, whatever its bytes") {
  for (std::uint64_t seed = 0; seed < 200; ++seed)
    for (const Split split : {Split::none, Split::gpt2, Split::llama3, Split::qwen2}) {
      std::string text = random_text(seed), joined;
      text[seed % text.size()] = static_cast<char>(0x80 + seed % 128);  // rarely UTF-8
      for (const std::string& pretoken : pretokens(text, split)) {
        CHECK(!pretoken.empty());
        joined += pretoken;
      }
      CHECK(joined == text);
    }
}

TEST_CASE("no continuation of a text changes the pretokens of its settled prefix") {
  std::size_t settled_bytes = 0;
  for (std::uint64_t seed = 0; seed < 1000; ++seed)
    for (const Split split : {Split::gpt2, Split::llama3, Split::qwen2}) {
      const std::string text = random_text(seed, 1 + seed % 12), all = text + random_text(seed + 5000, 4);
      const std::size_t settled = settled_prefix(text, split);
      settled_bytes += settled;
      const Pretokens first = pretokens(text.substr(0, settled), split), whole = pretokens(all, split);
      REQUIRE(first.size() <= whole.size());
      INFO("seed " << seed);
      CHECK(std::equal(first.begin(), first.end(), whole.begin()));
    }
  CHECK(settled_bytes > 10000);
}

#ifdef MOEGPT_HAVE_PCRE2
TEST_CASE("pretokens are the matches of PCRE2") {
  const std::pair<Split, std::string_view> patterns[] = {
      {Split::gpt2, gpt2_pattern}, {Split::llama3, llama3_pattern}, {Split::qwen2, qwen2_pattern}};
  for (const auto& [split, pattern] : patterns) {
    int error = 0;
    PCRE2_SIZE where = 0;
    pcre2_code* const code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                           PCRE2_UTF | PCRE2_UCP, &error, &where, nullptr);
    REQUIRE(code);
    pcre2_match_data* const data = pcre2_match_data_create_from_pattern(code, nullptr);
    for (std::uint64_t seed = 0; seed < 3000; ++seed) {
      const std::string text = random_text(seed);
      Pretokens expected;
      for (std::size_t at = 0; at < text.size();) {
        REQUIRE(pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, 0, data,
                            nullptr) > 0);
        const PCRE2_SIZE* const bounds = pcre2_get_ovector_pointer(data);
        REQUIRE(bounds[0] == at);
        expected.push_back(text.substr(at, bounds[1] - at));
        at = bounds[1];
      }
      CHECK(pretokens(text, split) == expected);
    }
    pcre2_match_data_free(data);
    pcre2_code_free(code);
  }
}

TEST_CASE("classes of characters are those of PCRE2") {
  const char* const patterns[] = {"\\p{L}", "\\p{N}", "\\s"};
  std::vector<bool> is[3];
  for (int p = 0; p < 3; ++p) {
    int error = 0;
    PCRE2_SIZE where = 0;
    pcre2_code* const code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(patterns[p]), PCRE2_ZERO_TERMINATED,
                                           PCRE2_UTF | PCRE2_UCP, &error, &where, nullptr);
    pcre2_match_data* const data = pcre2_match_data_create_from_pattern(code, nullptr);
    is[p].resize(0x110000);
    for (char32_t c = 0; c < 0x110000; ++c) {
      if (c >= 0xd800 && c < 0xe000) continue;
      std::string text;
      utf8::append(text, c);
      is[p][c] =
          pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0, data, nullptr) > 0;
    }
    pcre2_match_data_free(data);
    pcre2_code_free(code);
  }
  Index different = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    const auto kind = unicode::class_of(c);
    different += is[0][c] != (kind == unicode::Class::letter) ||
                 is[1][c] != (kind == unicode::Class::number) ||
                 (is[2][c] && c != 0x180e) != (kind == unicode::Class::space);  // U+180E: no White_Space
  }
  CHECK(different == 0);
}
#endif
