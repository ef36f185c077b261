#pragma once
// Byte-level byte-pair encoding (Sennrich et al. 2016; on bytes, Radford et al. 2019): a text is divided into
// pretokens by a split pattern; a pretoken begins as its bytes, and the pair of neighbours that comes first
// in the list of merges is merged, again and again. Every text, UTF-8 or not, has ids, and decode returns it
// (in normalization form C, if the rules say so).
#include <moegpt/text/nfc.hpp>
#include <moegpt/text/split.hpp>
#include <moegpt/text/token_tables.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <queue>
#include <span>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// What a BytePairs is made of. Ids are in [0, most_ids).
struct BytePairRules {
  struct Merge {
    int left, right, id;
    bool operator==(const Merge&) const = default;
  };
  struct Special {
    int id;
    std::string text;
    bool operator==(const Special&) const = default;
  };
  static constexpr int most_ids = 1 << 21;
  static constexpr std::size_t most_token_bytes = 4096, most_bytes = std::size_t{1} << 28;

  Split split = Split::gpt2;
  bool whole_pretokens =
      false;                    // a pretoken that is a token is that token, whatever the merges say (Llama 3)
  bool nfc = false;             // a text is brought into Unicode's normalization form C first (Qwen)
  std::vector<int> bytes{};     // [256] id of each byte
  std::vector<Merge> merges{};  // in the order of their priority; left and right are bytes or earlier ids
  std::vector<Special> special{};  // tokens that no merge makes, such as <|endoftext|>
  std::vector<int> start{};        // ids that the model expects before a text; encode does not write them
  bool operator==(const BytePairRules&) const = default;
};

// The ids that GPT-2 gives to single bytes: printable bytes first.
inline std::vector<int> gpt2_byte_ids() {
  std::vector<int> ids(256);
  int next = 0;
  const auto printable = [](int b) { return (b > 32 && b < 127) || (b > 160 && b != 173); };
  for (const bool first : {true, false})
    for (int b = 0; b < 256; ++b)
      if (printable(b) == first) ids[static_cast<std::size_t>(b)] = next++;
  return ids;
}

class BytePairs {
 public:
  // Throws std::invalid_argument for rules that contradict themselves.
  explicit BytePairs(BytePairRules rules) : rules_(std::move(rules)) {
    check_bytes();
    make_tokens();
    make_tables();
  }
  BytePairs(const BytePairs&) = delete;  // its tables point into it
  BytePairs& operator=(const BytePairs&) = delete;

  const BytePairRules& rules() const { return rules_; }
  // One more than the largest id.
  int vocab() const { return static_cast<int>(tokens_.size()); }
  // The bytes of a token; empty for an id that no token has.
  std::string_view token(int id) const { return text_of(tokens_[static_cast<std::size_t>(id)]); }
  // The id of the special token with this text; -1: none.
  int special(std::string_view text) const {
    for (const auto& token : rules_.special)
      if (token.text == text) return token.id;
    return -1;
  }

  // Appends the ids of `text`. Special tokens in it are text, unless `read_special`.
  void encode(std::string_view text, std::vector<int>& ids, bool read_special = false) const {
    if (!read_special || rules_.special.empty()) return encode_part(text, ids);
    std::size_t begin = 0;
    for (std::size_t at = 0; at < text.size();) {
      const BytePairRules::Special* found = special_at(text.substr(at));
      if (!found) {
        ++at;
        continue;
      }
      encode_part(text.substr(begin, at - begin), ids);
      ids.push_back(found->id);
      begin = at += found->text.size();
    }
    encode_part(text.substr(begin), ids);
  }

  bool operator==(const BytePairs& other) const { return rules_ == other.rules_; }

 private:
  struct Bytes {
    std::size_t begin = 0, size = 0;  // in text_
  };
  std::string_view text_of(Bytes bytes) const { return {text_.data() + bytes.begin, bytes.size}; }

  static void check_id(int id, const char* what) {
    check(id >= 0 && id < BytePairRules::most_ids, "the id of ", what, " is ", id, ", expected 0 .. ",
          BytePairRules::most_ids - 1);
  }
  void check_bytes() const {
    check(rules_.bytes.size() == 256, "byte pairs: ids of ", rules_.bytes.size(), " bytes, expected 256");
    std::vector<int> sorted = rules_.bytes;
    std::sort(sorted.begin(), sorted.end());
    check_id(sorted.front(), "a byte");
    check_id(sorted.back(), "a byte");
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    check(twice == sorted.end(), "byte pairs: two bytes have the id ", twice == sorted.end() ? 0 : *twice);
  }
  // tokens_ and text_: what each id stands for.
  void make_tokens() {
    const auto add = [&](int id, std::string_view text, const char* what) {
      check_id(id, what);
      if (id >= vocab()) tokens_.resize(static_cast<std::size_t>(id) + 1);
      Bytes& token = tokens_[static_cast<std::size_t>(id)];
      check(token.size == 0 || text_of(token) == text, "byte pairs: two different tokens have the id ", id);
      if (token.size > 0) return;
      check(text.size() <= BytePairRules::most_token_bytes &&
                text_.size() + text.size() <= BytePairRules::most_bytes,
            "byte pairs: token ", id, " has ", text.size(), " bytes, after ", text_.size(),
            " of other tokens; expected at most ", BytePairRules::most_token_bytes, " and ",
            BytePairRules::most_bytes);
      token = {text_.size(), text.size()};
      text_ += text;
    };
    for (int b = 0; b < 256; ++b) {
      const char byte = static_cast<char>(static_cast<unsigned char>(b));
      add(rules_.bytes[static_cast<std::size_t>(b)], {&byte, 1}, "a byte");
    }
    std::string merged;
    for (std::size_t i = 0; i < rules_.merges.size(); ++i) {
      const BytePairRules::Merge& merge = rules_.merges[i];
      for (const int part : {merge.left, merge.right})
        check(part >= 0 && part < vocab() && !token(part).empty(), "byte pairs: merge ", i, " is of id ",
              part, ", which is neither a byte nor the result of an earlier merge");
      merged = token(merge.left);
      merged += token(merge.right);
      add(merge.id, merged, "a merge");
    }
    for (const auto& token : rules_.special) {
      check(!token.text.empty(), "byte pairs: the special token ", token.id, " has no text");
      check(token.id >= vocab() || tokens_[static_cast<std::size_t>(token.id)].size == 0,
            "byte pairs: the special token ", token.id, " has the id of another token");
      add(token.id, token.text, "a special token");
      starts_special_[static_cast<unsigned char>(token.text[0])] = true;
    }
    for (const int id : rules_.start)
      check(id >= 0 && id < vocab() && !token(id).empty(), "byte pairs: a text starts with id ", id,
            ", which no token has");
  }
  void make_tables() {
    pairs_.reserve(rules_.merges.size());
    for (std::size_t i = 0; i < rules_.merges.size(); ++i) {
      const BytePairRules::Merge& merge = rules_.merges[i];
      check(pairs_.insert(merge.left, merge.right, static_cast<int>(i)), "byte pairs: merge ", i, " of ids ",
            merge.left, " and ", merge.right, " is there twice");
    }
    // Pretokens that are one token, found without merging.
    whole_.reserve(rules_.merges.size() + 256);
    const auto add = [&](int id) {
      const std::string_view text = token(id);
      std::vector<int> ids;
      if (!rules_.whole_pretokens) merge(text, ids);
      if (rules_.whole_pretokens || (ids.size() == 1 && ids[0] == id)) whole_.insert(text, id);
    };
    for (const int id : rules_.bytes) add(id);
    for (const auto& merge : rules_.merges) add(merge.id);
  }

  const BytePairRules::Special* special_at(std::string_view text) const {
    if (!starts_special_[static_cast<unsigned char>(text[0])]) return nullptr;
    const BytePairRules::Special* longest = nullptr;
    for (const auto& token : rules_.special)
      if (text.substr(0, token.text.size()) == token.text &&
          (!longest || token.text.size() > longest->text.size()))
        longest = &token;
    return longest;
  }

  void encode_part(std::string_view text, std::vector<int>& ids) const {
    const auto ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
    if (rules_.nfc && !std::all_of(text.begin(), text.end(), ascii))
      encode_text(unicode::to_nfc(text), ids);
    else
      encode_text(text, ids);
  }
  // Pretokens that are no token are merged once in a while: their ids are found where they were written
  // before.
  void encode_text(std::string_view text, std::vector<int>& ids) const {
    struct Known {
      std::string_view pretoken{};
      std::size_t first = 0, count = 0;  // in ids
    };
    std::vector<Known> known(text.size() > 4096 ? 8192 : 0);
    for_each_pretoken(text, rules_.split, [&](std::string_view pretoken) {
      const std::uint64_t hash = detail::StringTable::hash(pretoken);
      if (const int id = whole_.find(pretoken, hash); id >= 0) return ids.push_back(id);
      Known* place = known.empty() ? nullptr : &known[hash >> 32 & 8191];
      if (place && place->pretoken == pretoken) {
        ids.resize(ids.size() + place->count);
        std::copy_n(ids.data() + place->first, place->count, ids.data() + ids.size() - place->count);
        return;
      }
      const std::size_t first = ids.size();
      merge(pretoken, ids);
      if (place) *place = {pretoken, first, ids.size() - first};
    });
  }
  void merge(std::string_view pretoken, std::vector<int>& ids) const {
    if (pretoken.size() <= 48)
      merge_short(pretoken, ids);
    else
      merge_long(pretoken, ids);
  }
  int id_of(char byte) const { return rules_.bytes[static_cast<unsigned char>(byte)]; }

  // Looks for the first merge in each round.
  void merge_short(std::string_view pretoken, std::vector<int>& ids) const {
    int parts[48], ranks[48];  // ranks: merge of parts[i] and parts[i + 1], none: -1
    std::size_t count = pretoken.size();
    const auto rank = [&](std::size_t i) {
      return i + 1 < count ? static_cast<unsigned>(pairs_.find(parts[i], parts[i + 1])) : ~0u;
    };
    for (std::size_t i = 0; i < count; ++i) parts[i] = id_of(pretoken[i]);
    for (std::size_t i = 0; i < count; ++i) ranks[i] = static_cast<int>(rank(i));
    while (count > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < count; ++i)
        if (static_cast<unsigned>(ranks[i]) < static_cast<unsigned>(ranks[best])) best = i;
      if (ranks[best] < 0) break;
      parts[best] = rules_.merges[static_cast<std::size_t>(ranks[best])].id;
      --count;
      for (std::size_t i = best + 1; i < count; ++i) parts[i] = parts[i + 1], ranks[i] = ranks[i + 1];
      ranks[best] = static_cast<int>(rank(best));
      if (best > 0) ranks[best - 1] = static_cast<int>(rank(best - 1));
    }
    ids.insert(ids.end(), parts, parts + count);
  }
  // The same with a list of parts and a queue of merges: n log n for n bytes.
  void merge_long(std::string_view pretoken, std::vector<int>& ids) const {
    struct Part {
      int id;
      std::int64_t before, after;  // indices of the neighbours
    };
    struct Candidate {
      int rank;
      std::int64_t at;
      int left, right;  // ids when it was found
      bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
    };
    const auto size = static_cast<std::int64_t>(pretoken.size());
    std::vector<Part> parts(pretoken.size());
    std::priority_queue<Candidate> queue;
    const auto part = [&](std::int64_t i) -> Part& { return parts[static_cast<std::size_t>(i)]; };
    const auto look = [&](std::int64_t at) {
      if (at < 0 || part(at).after >= size) return;
      const int left = part(at).id, right = part(part(at).after).id;
      if (const int rank = pairs_.find(left, right); rank >= 0) queue.push({rank, at, left, right});
    };
    for (std::int64_t i = 0; i < size; ++i)
      part(i) = {id_of(pretoken[static_cast<std::size_t>(i)]), i - 1, i + 1};
    for (std::int64_t i = 0; i < size; ++i) look(i);
    while (!queue.empty()) {
      const Candidate c = queue.top();
      queue.pop();
      Part& left = part(c.at);
      if (left.id != c.left || left.after >= size || part(left.after).id != c.right) continue;
      Part& right = part(left.after);
      left.id = rules_.merges[static_cast<std::size_t>(c.rank)].id;
      right.id = -1;
      left.after = right.after;
      if (left.after < size) part(left.after).before = c.at;
      look(left.before);
      look(c.at);
    }
    for (std::int64_t i = 0; i < size; i = part(i).after) ids.push_back(part(i).id);
  }

  BytePairRules rules_;
  std::string text_;           // bytes of all tokens
  std::vector<Bytes> tokens_;  // [vocab]
  detail::PairTable pairs_;
  detail::StringTable whole_;
  bool starts_special_[256] = {};
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
