#pragma once
// Normalization form C of Unicode 14 (Unicode Standard Annex 15): canonical decomposition, then composition.
// The tokenizers of Qwen bring a text into this form first.
#include <moegpt/text/unicode_tables.hpp>
#include <moegpt/text/utf8.hpp>

#include <algorithm>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace unicode {
namespace detail {

// Syllables of Hangul: leading consonant, vowel, and perhaps trailing consonant.
struct Hangul {
  static constexpr char32_t syllables = 0xac00, leading = 0x1100, vowels = 0x1161, trailing = 0x11a7;
  static constexpr char32_t L = 19, V = 21, T = 28;
};

inline const Decomposition* decomposition_of(char32_t c) {
  const auto* end = std::end(decompositions);
  const auto* found = std::lower_bound(std::begin(decompositions), end, c,
                                       [](const Decomposition& d, char32_t x) { return d.composed < x; });
  return found != end && found->composed == c ? found : nullptr;
}

inline void decompose(char32_t c, std::vector<char32_t>& to) {
  using H = Hangul;
  if (c >= H::syllables && c < H::syllables + H::L * H::V * H::T) {
    const char32_t index = c - H::syllables;
    to.push_back(H::leading + index / (H::V * H::T));
    to.push_back(H::vowels + index / H::T % H::V);
    if (index % H::T > 0) to.push_back(H::trailing + index % H::T);
  } else if (const Decomposition* parts = decomposition_of(c)) {
    decompose(parts->first, to);
    if (parts->second) to.push_back(parts->second);
  } else {
    to.push_back(c);
  }
}

struct Pair {
  char32_t first, second, composed;
  bool operator<(const Pair& o) const { return first != o.first ? first < o.first : second < o.second; }
};
inline const std::vector<Pair>& compositions() {
  static const std::vector<Pair> sorted = [] {
    std::vector<Pair> pairs;
    for (const Decomposition& d : decompositions)
      if (d.composes) pairs.push_back({d.first, d.second, d.composed});
    std::sort(pairs.begin(), pairs.end());
    return pairs;
  }();
  return sorted;
}
// 0: they do not compose.
inline char32_t compose(char32_t a, char32_t b) {
  using H = Hangul;
  if (a >= H::leading && a < H::leading + H::L && b >= H::vowels && b < H::vowels + H::V)
    return H::syllables + ((a - H::leading) * H::V + (b - H::vowels)) * H::T;
  const bool open =
      a >= H::syllables && a < H::syllables + H::L * H::V * H::T && (a - H::syllables) % H::T == 0;
  if (open && b > H::trailing && b < H::trailing + H::T) return a + (b - H::trailing);
  const auto& pairs = compositions();
  const auto found = std::lower_bound(pairs.begin(), pairs.end(), Pair{a, b, 0});
  return found != pairs.end() && found->first == a && found->second == b ? found->composed : 0;
}

}  // namespace detail

// Canonical combining class; 0: the character begins a sequence.
inline int combining_class(char32_t c) {
  using detail::combining_classes;
  const auto* after = std::upper_bound(std::begin(combining_classes), std::end(combining_classes), c,
                                       [](char32_t x, const auto& range) { return x < range.first; });
  return after != std::begin(combining_classes) && c <= after[-1].last ? after[-1].value : 0;
}

// The text in normalization form C. Bytes that are not UTF-8 stay as they are.
inline std::string to_nfc(std::string_view text) {
  std::string result;
  std::vector<char32_t> run;  // of decomposed characters
  const auto flush = [&] {
    // Canonical order: stable by class between characters of class 0.
    for (auto begin = run.begin(); begin != run.end();) {
      auto end = begin + 1;
      while (end != run.end() && combining_class(*end) != 0) ++end;
      std::stable_sort(combining_class(*begin) != 0 ? begin : begin + 1, end,
                       [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
      begin = end;
    }
    // Each character joins the last one of class 0, unless one between them has its class or a higher one.
    std::size_t count = 0, starter = run.size();
    int last = 0;
    for (const char32_t c : run) {
      const int k = combining_class(c);
      const bool adjacent = starter < count && count - 1 == starter;
      if (starter < count && (adjacent || (last < k && last != 0)))
        if (const char32_t joined = detail::compose(run[starter], c)) {
          run[starter] = joined;
          continue;
        }
      if (k == 0) starter = count;
      last = k;
      run[count++] = c;
    }
    for (std::size_t i = 0; i < count; ++i) utf8::append(result, run[i]);
    run.clear();
  };
  for (std::size_t at = 0; at < text.size();) {
    const utf8::Character c = utf8::read(text, at);
    if (c.bytes == 0) {
      flush();
      result += text[at++];
      continue;
    }
    if (c.value < 0x300 && !run.empty()) flush();  // composes with nothing before it
    if (c.value < 0x80 && (at + 1 == text.size() || static_cast<unsigned char>(text[at + 1]) < 0x80))
      result += text[at];  // nothing behind it composes with it
    else
      detail::decompose(c.value, run);
    at += c.bytes;
  }
  flush();
  return result;
}

}  // namespace unicode
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
