#pragma once
// Training of byte-pair rules (Sennrich et al. 2016): the most frequent pair of neighbours in the pretokens
// of a text becomes a token, again and again. Among pairs that are equally frequent the one with the smaller
// ids is first, as in the package `tokenizers`, so both make the same merges.
#include <moegpt/text/byte_pairs.hpp>

#include <unordered_map>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct BytePairTraining {
  int vocab = 4096;  // ids: 256 bytes, merges, special tokens; fewer if no pair is left
  Split split = Split::gpt2;
  std::vector<std::string> special = {"<|endoftext|>"};  // they have the largest ids
  std::int64_t min_count = 2;                            // of a pair that becomes a token
};

class BytePairTrainer {
 public:
  explicit BytePairTrainer(BytePairTraining options = {}) : options_(std::move(options)) {
    const auto least = static_cast<int>(256 + options_.special.size());
    check(options_.vocab >= least && options_.vocab <= BytePairRules::most_ids,
          "byte pairs: a vocabulary of ", options_.vocab, " ids was asked for, expected ", least,
          " (256 bytes and the special tokens) .. ", BytePairRules::most_ids);
    check(options_.min_count >= 1, "byte pairs: min_count is ", options_.min_count, ", expected at least 1");
  }

  // Counts the pretokens of a text. Pretokens do not reach from one call to the next.
  void add(std::string_view text) {
    for_each_pretoken(text, options_.split, [&](std::string_view pretoken) {
      if (pretoken.size() > BytePairRules::most_token_bytes)
        pretoken = pretoken.substr(0, BytePairRules::most_token_bytes);
      const auto found = pretokens_.find(pretoken);
      ++(found != pretokens_.end() ? found->second : pretokens_[std::string(pretoken)]);
    });
  }

  // The rules learned from what was added. May be called more than once.
  BytePairRules train() const { return Run(options_, pretokens_).train(); }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return detail::StringTable::hash(text); }
  };
  using Pretokens = std::unordered_map<std::string, std::int64_t, Hash, std::equal_to<>>;

  struct Run {
    struct Word {
      std::vector<int> ids;
      std::int64_t count;
    };
    struct Pair {
      std::int64_t count = 0;
      std::vector<std::size_t> words;  // that contain it, or did; with repetitions
    };
    struct Candidate {
      std::int64_t count;
      std::uint64_t pair;
      bool operator<(const Candidate& o) const { return count != o.count ? count < o.count : pair > o.pair; }
    };
    static std::uint64_t key(int left, int right) {
      return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
    }

    const BytePairTraining& options;
    BytePairRules rules;
    std::vector<Word> words;
    std::unordered_map<std::uint64_t, Pair> pairs;
    std::priority_queue<Candidate> queue;
    std::vector<std::uint64_t> more;  // pairs that became more frequent by a merge

    Run(const BytePairTraining& o, const Pretokens& pretokens) : options(o) {
      rules.split = o.split;
      rules.bytes = gpt2_byte_ids();
      words.reserve(pretokens.size());
      for (const auto& [pretoken, count] : pretokens) {
        if (pretoken.size() < 2) continue;
        Word word{{}, count};
        for (const char c : pretoken) word.ids.push_back(rules.bytes[static_cast<unsigned char>(c)]);
        words.push_back(std::move(word));
        count_pairs(words.size() - 1, 1);
      }
      push_more();
    }

    // Adds the pairs of a word, or with sign -1 takes them away.
    void count_pairs(std::size_t w, int sign) {
      const Word& word = words[w];
      for (std::size_t i = 0; i + 1 < word.ids.size(); ++i) {
        const std::uint64_t k = key(word.ids[i], word.ids[i + 1]);
        Pair& pair = pairs[k];
        pair.count += sign * word.count;
        if (sign < 0) continue;
        if (pair.words.empty() || pair.words.back() != w) pair.words.push_back(w);
        more.push_back(k);
      }
    }
    void push_more() {
      std::sort(more.begin(), more.end());
      more.erase(std::unique(more.begin(), more.end()), more.end());
      for (const std::uint64_t k : more) queue.push({pairs[k].count, k});
      more.clear();
    }
    void merge(int left, int right, int id) {
      std::vector<std::size_t> where = std::move(pairs[key(left, right)].words);
      std::sort(where.begin(), where.end());
      where.erase(std::unique(where.begin(), where.end()), where.end());
      for (const std::size_t w : where) {
        std::vector<int>& ids = words[w].ids;
        count_pairs(w, -1);
        std::size_t count = 0;
        for (std::size_t i = 0; i < ids.size(); ++i) {
          const bool both = ids[i] == left && i + 1 < ids.size() && ids[i + 1] == right;
          ids[count++] = both ? id : ids[i];
          i += both;
        }
        ids.resize(count);
        count_pairs(w, 1);
      }
      pairs.erase(key(left, right));
    }
    BytePairRules train() {
      const int end = options.vocab - static_cast<int>(options.special.size());
      std::vector<std::string> texts(256);  // of ids
      std::unordered_map<std::string, int> ids;
      for (int b = 0; b < 256; ++b) {
        const int id = rules.bytes[static_cast<std::size_t>(b)];
        texts[static_cast<std::size_t>(id)] = static_cast<char>(static_cast<unsigned char>(b));
      }
      int next = 256;
      while (next < end && !queue.empty()) {
        const Candidate best = queue.top();
        queue.pop();
        const auto found = pairs.find(best.pair);
        const std::int64_t count = found == pairs.end() ? 0 : found->second.count;
        if (count < options.min_count) continue;
        if (count != best.count) {
          queue.push({count, best.pair});
          continue;
        }
        const int left = static_cast<int>(best.pair >> 32), right = static_cast<int>(best.pair & 0xffffffff);
        std::string text = texts[static_cast<std::size_t>(left)];
        text += texts[static_cast<std::size_t>(right)];
        const auto [place, is_new] = ids.try_emplace(text, next);  // two pairs may be the same bytes
        if (is_new) texts.push_back(text), ++next;
        rules.merges.push_back({left, right, place->second});
        merge(left, right, place->second);
        push_more();
      }
      for (const std::string& text : options.special) rules.special.push_back({next++, text});
      return std::move(rules);
    }
  };

  BytePairTraining options_;
  Pretokens pretokens_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
