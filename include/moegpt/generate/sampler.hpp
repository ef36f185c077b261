#pragma once
// Sampling of the next id from a row of logits. The steps have the order of transformers' generate():
//   1. logit bias                          z_i += bias_i
//   2. repetition penalty r                z_i = z_i > 0 ? z_i / r : z_i * r, i in prompt or generated ids
//                                          (Keskar et al. 2019, CTRL)
//   3. presence and frequency penalties    z_i -= presence [c_i > 0] + frequency c_i, c_i = how often i was
//                                          generated (OpenAI; the prompt does not count)
//   4. banned ids                          z_i = -infinity
//   5. temperature t                       p_i ~ exp(z_i / t); 0: the largest z_i, without the steps below
//   6. top-k, 7. top-p, 8. min-p           each counts what the steps before it left
// Equal logits: the lower id comes first. Partial selection takes time linear in the vocabulary.
#include <moegpt/core/check.hpp>
#include <moegpt/core/matrix.hpp>
#include <moegpt/kernels/top_k.hpp>
#include <moegpt/kernels/vector_math.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct LogitBias {
  int id = 0;
  double value = 0;  // minus infinity bans the id
};

struct Sampling {
  double temperature = 1;  // 0: always the likeliest token
  int top_k = 0;           // only the k likeliest; 0: all
  double top_p = 1;        // only the fewest likeliest that reach probability p (Holtzman et al. 2020)
  int vocab = 0;           // only ids below this, for a tokenizer smaller than the model; 0: all
  double min_p = 0;        // only tokens with at least min_p times the probability of the likeliest; 0: all
  double repetition_penalty = 1;  // above 1: ids of the prompt and of the text become less likely
  double presence_penalty = 0;    // subtracted once from the logit of an id that was generated
  double frequency_penalty = 0;   // subtracted as often as the id was generated
  std::vector<LogitBias> bias{};  // added to logits
  std::vector<int> banned{};      // ids that are never drawn
  int log_probabilities = -1;     // of the choice and of so many likeliest ids; -1: none
};

// For rows of `vocab` logits, which a sampler may not know yet.
inline void check_sampling(const Sampling& s, int vocab = std::numeric_limits<int>::max()) {
  check(s.temperature >= 0 && std::isfinite(s.temperature), "temperature is ", s.temperature,
        ", expected a finite number, 0 or more");
  check(s.top_k >= 0, "top_k is ", s.top_k, ", expected 0 (all) or more");
  check(s.top_p > 0 && s.top_p <= 1, "top_p is ", s.top_p, ", expected a number in (0, 1]");
  check(s.min_p >= 0 && s.min_p <= 1, "min_p is ", s.min_p, ", expected a number in [0, 1]");
  check(s.vocab >= 0, "the vocab of the sampling is ", s.vocab, ", expected 0 (all) or more");
  check(s.repetition_penalty > 0 && std::isfinite(s.repetition_penalty), "repetition_penalty is ",
        s.repetition_penalty, ", expected a finite number above 0; 1 is none");
  check(std::isfinite(s.presence_penalty), "presence_penalty is ", s.presence_penalty,
        ", expected a finite number");
  check(std::isfinite(s.frequency_penalty), "frequency_penalty is ", s.frequency_penalty,
        ", expected a finite number");
  for (const LogitBias& b : s.bias) {
    check(b.id >= 0 && b.id < vocab, "a logit bias is for id ", b.id, ", expected 0 .. ", vocab - 1);
    check(b.value < std::numeric_limits<double>::infinity(), "the logit bias of id ", b.id, " is ", b.value,
          ", expected a finite number, or minus infinity to ban the id");
  }
  for (const int id : s.banned)
    check(id >= 0 && id < vocab, "a banned id is ", id, ", expected 0 .. ", vocab - 1);
  check(s.log_probabilities >= -1, "log_probabilities is ", s.log_probabilities,
        ", expected the number of likeliest ids, 0 or more, or -1 for none");
}

struct IdProbability {
  int id = 0;
  double log_probability = 0;  // natural logarithm
};

// log sum_i exp(z_i), in double.
template <class T>
double log_normalizer(const T* z, int n) {
  const double top = static_cast<double>(*std::max_element(z, z + n));
  double total = 0;
  for (int i = 0; i < n; ++i) total += std::exp(static_cast<double>(z[i]) - top);
  return top + std::log(total);
}

// Draws ids from rows of logits, and remembers the ids of one sequence for the penalties. After resize(vocab)
// nothing allocates. A logit of minus infinity bans its id. std::invalid_argument for a row with NaN or plus
// infinity, before or after bias and penalties, and for one that bans all ids.
template <class T>
class Sampler {
 public:
  explicit Sampler(Sampling sampling = {}) { restart(std::move(sampling)); }

  const Sampling& sampling() const { return sampling_; }
  // Takes the memory for rows of `vocab` logits.
  void resize(int vocab) {
    check(vocab > 0, "a row of ", vocab, " logits has no token to draw");
    entries_.resize(vocab);
    if (penalises() || !sampling_.bias.empty() || !sampling_.banned.empty()) scores_.resize(vocab);
    if (penalises()) reserve_history(vocab);
    const int most = std::min(sampling_.log_probabilities, vocab);
    if (most > 0) likeliest_.resize(most), likeliest_ids_.resize(most);
  }
  // Another sequence: other options, and no remembered ids.
  void restart(Sampling sampling) {
    check_sampling(sampling);
    sampling_ = std::move(sampling);
    forget();
  }
  void forget() {
    for (const int id : seen_) history_[static_cast<std::size_t>(id)] = {};
    seen_.clear();
  }
  // ids of the prompt, and an id that was drawn and is now part of the text: see the penalties.
  void read(std::span<const int> ids) {
    if (penalises())
      for (const int id : ids) remember(id);
  }
  void accept(int id) {
    if (penalises()) ++remember(id).generated;
  }

  // u: uniform in [0, 1). Ids in descending order of probability share [0, 1).
  int operator()(const T* logits, int vocab, double u) {
    check(u >= 0 && u < 1, "u is ", u, ", expected a number in [0, 1)");
    resize(vocab);
    const int all = used(vocab);
    const T* z = processed(logits, vocab);
    Index n = 0;
    Entry best{};
    for (int i = 0; i < all; ++i) {
      if (!std::isfinite(z[i])) {
        check(z[i] < 0, "logit ", i, z == logits ? " is " : ", with its bias and penalties, is ", z[i],
              ", expected a finite number, or minus infinity to ban its id");
        continue;
      }
      entries_[n++] = {z[i], i, 0};
      if (n == 1 || z[i] > best.z) best = entries_[n - 1];
    }
    check(n > 0, "all ", all, " logits are minus infinity: every id is banned, at least one must be left");
    if (sampling_.temperature == 0) return best.id;

    Entry* const first = entries_.begin();
    if (sampling_.top_k > 0 && sampling_.top_k < n) {
      std::nth_element(first, first + sampling_.top_k, first + n, Likelier{});
      n = sampling_.top_k;
    }
    double total = 0;
    Index some = 0;  // whose probability is not zero
    constexpr int W = lanes<double>;
    for (Index i = 0; i < n; i += W) {
      const int count = static_cast<int>(std::min<Index>(W, n - i));
      Vector<double> mass{};
      for (int l = 0; l < count; ++l) mass[l] = static_cast<double>(entries_[i + l].z - best.z);
      mass = kernels::exponential(mass / sampling_.temperature);
      for (int l = 0; l < count; ++l) {
        total += mass[l];
        if (mass[l] > 0) entries_[some++] = {entries_[i + l].z, entries_[i + l].id, mass[l]};
      }
    }
    n = some;
    if (sampling_.top_p < 1) n = least(n, [&](double mass) { return mass >= sampling_.top_p * total; });
    if (sampling_.min_p > 0)
      n = std::partition(first, first + n, [&](const Entry& e) { return e.mass >= sampling_.min_p; }) - first;
    double kept = 0;
    for (Index i = 0; i < n; ++i) kept += entries_[i].mass;
    return entries_[least(n, [&](double mass) { return mass > u * kept; }) - 1].id;
  }

  // Of softmax(logits), without the steps above: of `id`, and of the Sampling::log_probabilities likeliest
  // ids.
  double log_probability(const T* logits, int vocab, int id) {
    check(id >= 0 && id < used(vocab), "the log-probability of id ", id, " was asked for, expected 0 .. ",
          used(vocab) - 1);
    return static_cast<double>(logits[id]) - log_normalizer(logits, used(vocab));
  }
  // The view lives until the next call.
  std::span<const IdProbability> likeliest(const T* logits, int vocab) {
    resize(vocab);
    const int n = std::min(std::max(sampling_.log_probabilities, 0), used(vocab));
    if (n == 0) return {};
    const double lse = log_normalizer(logits, used(vocab));
    kernels::top_k(logits, used(vocab), n, likeliest_ids_.data());
    for (Index i = 0; i < n; ++i)
      likeliest_[i] = {likeliest_ids_[i], static_cast<double>(logits[likeliest_ids_[i]]) - lse};
    return {likeliest_.data(), static_cast<std::size_t>(n)};
  }

 private:
  struct Entry {
    T z;
    int id;
    double mass;  // exp((z - max z) / t)
  };
  struct OfId {
    bool seen;
    int generated;
  };
  Sampling sampling_;
  Buffer<Entry> entries_;
  Buffer<T> scores_;
  Buffer<IdProbability> likeliest_;
  Buffer<int> likeliest_ids_;
  std::vector<OfId> history_;  // [vocab]
  std::vector<int> seen_;      // the ids of it that were seen, each once

  struct Likelier {  // a type, so that it is inlined
    bool operator()(const Entry& a, const Entry& b) const { return a.z > b.z || (a.z == b.z && a.id < b.id); }
  };
  bool penalises() const {
    return sampling_.repetition_penalty != 1 || sampling_.presence_penalty != 0 ||
           sampling_.frequency_penalty != 0;
  }
  int used(int vocab) const { return sampling_.vocab > 0 ? std::min(sampling_.vocab, vocab) : vocab; }
  void reserve_history(int vocab) {
    const auto size = static_cast<std::size_t>(vocab);
    if (history_.size() < size) history_.resize(size);
    seen_.reserve(size);
  }
  OfId& remember(int id) {
    check(id >= 0, "an id of the text is ", id, ", expected 0 or more");
    if (id >= std::ssize(history_)) reserve_history(id + 1);
    OfId& h = history_[static_cast<std::size_t>(id)];
    if (!h.seen) seen_.push_back(id);
    h.seen = true;
    return h;
  }

  // Steps 1 to 4.
  const T* processed(const T* logits, int vocab) {
    if (!penalises() && sampling_.bias.empty() && sampling_.banned.empty()) return logits;
    std::copy_n(logits, used(vocab), scores_.begin());
    const auto change = [&](int id, const char* what, auto f) {
      check(id < vocab, what, " id ", id, ", but a row has ", vocab, " logits: expected 0 .. ", vocab - 1);
      if (id < used(vocab)) scores_[id] = static_cast<T>(f(static_cast<double>(scores_[id])));
    };
    for (const LogitBias& b : sampling_.bias)
      change(b.id, "a logit bias is for", [&](double z) { return z + b.value; });
    for (const int id : seen_) {
      const double r = sampling_.repetition_penalty, times = history_[static_cast<std::size_t>(id)].generated;
      change(id, "the text has", [&](double z) {
        return (z > 0 ? z / r : z * r) - (times > 0 ? sampling_.presence_penalty : 0) -
               sampling_.frequency_penalty * times;
      });
    }
    for (const int id : sampling_.banned)
      change(id, "banned is", [](double) { return -std::numeric_limits<double>::infinity(); });
    return scores_.data();
  }

  // The least number m of likeliest entries, of n, for whose mass `enough` holds; n if it holds for none.
  // They come first, and the last of them is the m-th likeliest. Halves the range of m: n + n/2 + n/4 + ...
  // steps.
  template <class Enough>
  Index least(Index n, const Enough& enough) {
    Index first = 0, last = n;  // first < m <= last
    double mass = 0;            // of entries before first
    while (last - first > 1) {
      const Index middle = first + (last - first) / 2;
      Entry* const e = entries_.begin();
      std::nth_element(e + first, e + middle, e + last, Likelier{});
      double more = 0;
      for (Index i = first; i < middle; ++i) more += entries_[i].mass;
      if (enough(mass + more)) {
        last = middle;
      } else {
        first = middle;
        mass += more;
      }
    }
    return last;
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
