#pragma once
// Text generation: sampling from a model token by token, with a key/value cache.
#include <moegpt/core/random.hpp>
#include <moegpt/model/gpt.hpp>
#include <moegpt/text/tokenizer.hpp>

#include <algorithm>
#include <functional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct Sampling {
  double temperature = 1;  // 0: always the most probable token
  int top_k = 0;           // only the k most probable tokens; 0: all
  double top_p =
      1;  // nucleus: the fewest most probable tokens with total probability >= p (Holtzman et al. 2020)
  int vocab = 0;  // only ids below this, for a tokenizer smaller than the model; 0: all
};

// Samples tokens from rows of logits; reuses its memory. An id with a logit of minus infinity is never
// sampled. Throws std::invalid_argument for a row with NaN or plus infinity, and for one with all logits
// minus infinity.
template <class T>
class Sampler {
 public:
  explicit Sampler(Sampling sampling = {}) : sampling_(sampling) {
    check(sampling.temperature >= 0 && std::isfinite(sampling.temperature), "temperature is ",
          sampling.temperature, ", expected a finite number, 0 or more");
    check(sampling.top_k >= 0, "top_k is ", sampling.top_k, ", expected 0 (all) or more");
    check(sampling.top_p > 0 && sampling.top_p <= 1, "top_p is ", sampling.top_p,
          ", expected a number in (0, 1]");
    check(sampling.vocab >= 0, "the vocab of the sampling is ", sampling.vocab, ", expected 0 (all) or more");
  }

  // u: uniform in [0, 1). Ids of equal logits are ordered ascending.
  int operator()(const T* logits, int vocab, double u) {
    check(vocab > 0, "a row of ", vocab, " logits has no token to draw");
    check(u >= 0 && u < 1, "u is ", u, ", expected a number in [0, 1)");
    if (sampling_.vocab > 0 && sampling_.vocab < vocab) vocab = sampling_.vocab;
    order_.resize(vocab);
    int count = 0;  // ids that are not banned
    for (int i = 0; i < vocab; ++i) {
      if (!std::isfinite(logits[i])) {
        check(logits[i] < 0, "logit ", i, " is ", logits[i],
              ", expected a finite number, or minus infinity to ban its id");
        continue;
      }
      order_[count++] = i;
    }
    check(count > 0, "all ", vocab,
          " logits are minus infinity: every id is banned, at least one must be left");
    vocab = count;
    order_.resize(vocab);
    const auto likelier = [&](int a, int b) {
      return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
    };
    if (sampling_.temperature == 0) return *std::min_element(order_.begin(), order_.end(), likelier);
    std::sort(order_.begin(), order_.end(), likelier);
    const int k = sampling_.top_k > 0 && sampling_.top_k < vocab ? sampling_.top_k : vocab;
    probability_.resize(k);
    double total = 0;
    for (int i = 0; i < k; ++i) {
      probability_[i] =
          std::exp(static_cast<double>(logits[order_[i]] - logits[order_[0]]) / sampling_.temperature);
      total += probability_[i];
    }
    double nucleus = 0;  // unnormalised mass
    int n = 0;
    while (n < k && (n == 0 || nucleus < sampling_.top_p * total)) nucleus += probability_[n++];
    double rest = u * nucleus;
    for (int i = 0; i < n; ++i)
      if ((rest -= probability_[i]) < 0) return order_[i];
    return order_[n - 1];
  }

 private:
  Sampling sampling_;
  Buffer<int> order_;
  Buffer<double> probability_;
};

// Generation of one text: holds cache, workspace and the last tokens. Only the constructor allocates.
template <class Model>
class Generator {
 public:
  using T = typename Model::Scalar;

  // allowed [experts] and task: as in a Workspace.
  Generator(const Model& model, Sampling sampling, Rng rng, Exec exec = {}, std::optional<Key> noise = {},
            const bool* allowed = nullptr, int task = 0)
      : model_(model),
        work_({1, Model::config.context}, exec, {}, Use::inference),
        sample_(sampling),
        rng_(rng),
        noise_(noise) {
    work_.allowed = allowed;
    work_.task = task;
    seen_.resize(Model::config.context);
    sample_(probe().data, Model::config.vocab, 0);
  }

  // Appends ids and samples the next id.
  int next(std::span<const int> ids) {
    check(!ids.empty(), "nothing to continue: the prompt has no tokens");
    for (int id : ids) check(id >= 0 && id < Model::V, "token id ", id, ", expected 0 .. ", Model::V - 1);
    // Only the last `context` ids of a longer prompt are used.
    if (std::ssize(ids) > Model::config.context) ids = ids.last(Model::config.context);
    if (std::ssize(ids) > cache_.remaining()) return next_after_sliding(ids);
    std::copy(ids.begin(), ids.end(), seen_.begin() + cache_.length());
    return draw(model_.logits(ids, work_, cache_, noise_));
  }
  int next(int id) { return next(std::span<const int>(&id, 1)); }

 private:
  // The context is full: keeps at most its later half, which is computed again at new positions.
  int next_after_sliding(std::span<const int> ids) {
    const Index keep = std::min<Index>(Model::config.context / 2, Model::config.context - std::ssize(ids));
    int* const end = seen_.begin() + cache_.length();
    int* const kept = std::copy(end - keep, end, seen_.begin());
    cache_.clear();
    return draw(
        model_.logits({seen_.begin(), std::copy(ids.begin(), ids.end(), kept)}, work_, cache_, noise_));
  }
  int draw(In<Model::V, T> logits) { return sample_(logits[logits.count - 1], Model::V, rng_.uniform()); }
  // A row of zeros for the first call of the sampler, which allocates.
  In<Model::V, T> probe() {
    work_.tape.head.logits.resize(1);
    return work_.tape.head.logits;
  }

  const Model& model_;
  Workspace<Model> work_;
  typename Model::Cache cache_{1};
  Sampler<T> sample_;
  Rng rng_;
  std::optional<Key> noise_;
  Buffer<int> seen_;  // the ids that the cache holds
};

struct Generate {
  int tokens = 200;
  Sampling sampling{};
  std::uint64_t seed = 1;
  Exec exec{};
  std::optional<Key> noise{};                        // for models whose routers are noisy in generation too
  const bool* allowed = nullptr;                     // [experts] that may be selected; null: all
  int task = 0;                                      // task id, for masked routers
  std::function<void(std::string_view)> on_token{};  // called with the text of each token as it is sampled
};

// The continuation of `prompt`, without the prompt. An empty prompt starts with token 0.
template <class Model>
std::string generate(const Model& model, const Tokenizer& tokenizer, std::string_view prompt,
                     const Generate& how = {}) {
  check(tokenizer.vocab() <= Model::config.vocab, "the tokenizer has ", tokenizer.vocab(),
        " tokens, the model only ", Model::config.vocab);
  check(how.tokens >= 0, "cannot generate ", how.tokens, " tokens");
  std::vector<int> ids = tokenizer.encode(prompt);
  if (ids.empty()) ids.push_back(0);
  Sampling sampling = how.sampling;
  sampling.vocab = tokenizer.vocab();
  Generator<Model> generator(model, sampling, Rng{Key{how.seed}.with(Purpose::sampling)}, how.exec, how.noise,
                             how.allowed, how.task);
  std::string text;
  int id = generator.next(ids);
  for (int i = 0; i < how.tokens; ++i) {
    const std::string piece = tokenizer.decode(std::span<const int>(&id, 1));
    text += piece;
    if (how.on_token) how.on_token(piece);
    if (i + 1 < how.tokens) id = generator.next(id);
  }
  return text;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
