#pragma once
// Log-probability of given continuations, the choice among candidates, and perplexity of a text. With logits
// z_i of the model before token c_i:
//   log P(c | prompt) = sum_i (z_i[c_i] - lse(z_i)),   perplexity = exp(-mean_i log P(c_i | c_<i))
// The prompt is read once for all candidates, and what it shares with the prompt before is not read again.
// With causal routing and no capacity the terms have the bits of a forward of the whole sequence.
#include <moegpt/generate/sequence_batch.hpp>
#include <moegpt/text/token_view.hpp>
#include <moegpt/text/tokenizer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Score of a candidate c; the highest one is chosen.
enum class ScoreRule {
  sum,            // log P(c | prompt)
  per_token,      // divided by the number of its tokens
  per_character,  // of UTF-8 characters of its text
  per_byte,       // of bytes of its text
  unconditional,  // log P(c | prompt) - log P(c | unconditional prompt) (Brown et al. 2020)
};

struct Scoring {
  ScoreRule rule = ScoreRule::sum;
  std::vector<int> unconditional{};  // ids of the unconditional prompt, such as those of "Answer:"
  Index batch = 8;                   // maximum number of candidates in a forward
  Index piece = 0;                   // prefill chunk, in tokens of the prompt; 0: the context
  Exec exec{};
  const bool* allowed = nullptr;  // [experts] allowed experts; null: all
  int task = 0;                   // task id of Masked routers
};

struct Score {
  double log_probability = 0;  // of all its tokens, in nats
  double score = 0;            // by the rule
  Index tokens = 0;
};

// Scores the candidates of many prompts in one memory. `model` must outlive it.
template <class Model>
class Scorer {
 public:
  using T = typename Model::Scalar;
  static constexpr Index context = Model::config.context;

  // std::invalid_argument for an option out of range.
  explicit Scorer(const Model& model, const Scoring& how = {})
      : model_(model),
        how_(checked(how)),
        piece_(how.piece > 0 ? std::min(how.piece, context) : context),
        reading_({1, piece_}, how.exec, {}, Use::inference),
        prompt_(1),
        candidates_(how.batch) {
    reading_.allowed = how.allowed, reading_.task = how.task;
  }

  // log P(candidate | prompt) for each candidate. If prompt and longest candidate exceed the context, only
  // the end of the prompt is read, the same for all. std::invalid_argument for an empty prompt or candidate,
  // an invalid id and a candidate longer than the context.
  std::vector<double> log_probabilities(std::span<const int> prompt,
                                        std::span<const std::vector<int>> candidates) {
    check(!prompt.empty(), "nothing to score after: the prompt has no tokens");
    check_ids(prompt, "prompt token", 0, Model::V);
    std::size_t longest = 1;
    for (const auto& ids : candidates) {
      check(!ids.empty(), "a candidate has no tokens: expected 1 or more");
      check_ids(ids, "candidate token", 0, Model::V);
      longest = std::max(longest, ids.size());
    }
    check(static_cast<Index>(longest) <= context, "a candidate has ", longest,
          " tokens, but the model's context is ", context);
    const auto most = static_cast<std::size_t>(context) - (longest - 1);
    const In<Model::V, T> first = read(prompt.last(std::min(prompt.size(), most)));
    std::vector<double> sums(candidates.size());
    const auto batch = static_cast<std::size_t>(how_.batch);
    for (std::size_t i = 0; i < candidates.size(); i += batch) {
      const std::size_t count = std::min(batch, candidates.size() - i);
      add(first, candidates.subspan(i, count), std::span(sums).subspan(i, count));
    }
    return sums;
  }

 private:
  const Model& model_;
  Scoring how_;
  Index piece_;
  Workspace<Model> reading_;                 // the prompt: [1, piece]
  std::optional<Workspace<Model>> running_;  // candidates: [batch, longest - 1]
  typename Model::Cache prompt_, candidates_;
  std::vector<int> ids_{};  // of the prompt that is cached
  std::vector<int> inputs_{}, targets_{};
  std::vector<Index> lengths_{};
  std::vector<T> loss_{}, lse_{};

  static const Scoring& checked(const Scoring& how) {
    check(how.batch > 0, "a batch of ", how.batch, " candidates, expected 1 or more");
    check(how.piece >= 0, "the piece of a prompt is ", how.piece,
          " tokens, expected 1 or more, or 0 for the context");
    return how;
  }
  // True if keys and values do not depend on the partition of a sequence into calls.
  bool independent() const {
    return !allows_non_causal<typename Model::RouterRecipe> && model_.options.capacity_factor == 0;
  }

  // Logits after the prompt. The view is valid until the next prompt.
  In<Model::V, T> read(std::span<const int> prompt) {
    const std::size_t most = independent() ? std::min(ids_.size(), prompt.size() - 1) : 0;
    const auto same = std::mismatch(ids_.begin(), ids_.begin() + static_cast<Index>(most), prompt.begin());
    prompt_.truncate(0, same.first - ids_.begin());
    ids_.clear();  // nothing is known to be cached if logits throws
    In<Model::V, T> logits;
    for (auto at = static_cast<std::size_t>(prompt_.length(0)); at < prompt.size();) {
      const std::size_t count = std::min(static_cast<std::size_t>(piece_), prompt.size() - at);
      logits = model_.last_logits(prompt.subspan(at, count), {}, reading_, prompt_);
      at += count;
    }
    ids_.assign(prompt.begin(), prompt.end());
    return logits;
  }

  // sums += log P of at most `batch` candidates, whose first token has the logits `first`.
  void add(In<Model::V, T> first, std::span<const std::vector<int>> candidates, std::span<double> sums) {
    const Index count = std::ssize(candidates);
    Index length = 0;
    for (const auto& ids : candidates) length = std::max(length, std::ssize(ids) - 1);
    targets_.assign(1, 0);
    for (std::size_t b = 0; b < candidates.size(); ++b) {
      targets_[0] = candidates[b][0];
      sums[b] -= losses(first);
    }
    if (length == 0) return;
    if (!running_ || running_->shape.length < length) {
      running_.emplace(Shape{how_.batch, length}, how_.exec, Objective{}, Use::inference);
      running_->allowed = how_.allowed, running_->task = how_.task;
    }
    inputs_.assign(static_cast<std::size_t>(count * length), 0);
    targets_.assign(static_cast<std::size_t>(count * length), -1);
    lengths_.clear();
    candidates_.resize(count);
    for (Index b = 0; b < count; ++b) {
      const auto& ids = candidates[static_cast<std::size_t>(b)];
      candidates_.copy(prompt_, 0, b);
      lengths_.push_back(std::ssize(ids) - 1);
      std::copy(ids.begin(), ids.end() - 1, inputs_.begin() + b * length);
      std::copy(ids.begin() + 1, ids.end(), targets_.begin() + b * length);
    }
    losses(model_.logits(inputs_, lengths_, *running_, candidates_));
    for (Index b = 0; b < count; ++b)
      for (Index t = 0; t < lengths_[static_cast<std::size_t>(b)]; ++t)
        sums[static_cast<std::size_t>(b)] -=
            static_cast<double>(loss_[static_cast<std::size_t>(b * length + t)]);
  }
  // loss_ [rows]: the cross-entropies of targets_. Returns the first.
  double losses(In<Model::V, T> logits) {
    loss_.resize(targets_.size()), lse_.resize(targets_.size());
    kernels::cross_entropies<T>(how_.exec, logits, targets_.data(), loss_.data(), lse_.data());
    return static_cast<double>(loss_[0]);
  }
};

namespace detail {

// Scores by the rule; sizes: of the texts in characters or bytes, for these rules.
template <class Model>
std::vector<Score> scores(const Model& model, std::span<const int> prompt,
                          std::span<const std::vector<int>> candidates, std::span<const double> sizes,
                          const Scoring& how) {
  const bool relative = how.rule == ScoreRule::unconditional;
  check(!relative || !how.unconditional.empty(),
        "ScoreRule::unconditional needs the ids of an unconditional prompt in Scoring::unconditional");
  Scorer<Model> scorer(model, how);
  const std::vector<double> sums = scorer.log_probabilities(prompt, candidates);
  std::vector<double> less(sums.size());
  if (relative) less = scorer.log_probabilities(how.unconditional, candidates);
  std::vector<Score> all;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const Index tokens = std::ssize(candidates[i]);
    const double size = how.rule == ScoreRule::per_token ? static_cast<double>(tokens)
                        : sizes.empty()                  ? 1
                                                         : sizes[i];
    all.push_back({sums[i], (sums[i] - less[i]) / size, tokens});
  }
  return all;
}

}  // namespace detail

// Scores of candidates after a prompt, in ids. std::invalid_argument as Scorer::log_probabilities, and for a
// rule that needs the text.
template <class Model>
std::vector<Score> score_all(const Model& model, std::span<const int> prompt,
                             std::span<const std::vector<int>> candidates, const Scoring& how = {}) {
  check(how.rule != ScoreRule::per_character && how.rule != ScoreRule::per_byte,
        "a score per character or byte needs texts: call score_all with a tokenizer");
  return detail::scores(model, prompt, candidates, {}, how);
}
// The same in texts. Prompt and candidates are encoded apart, so with byte pairs a candidate begins with a
// new token. An empty prompt becomes token 0.
template <class Model>
std::vector<Score> score_all(const Model& model, const Tokenizer& tokenizer, std::string_view prompt,
                             std::span<const std::string> candidates, const Scoring& how = {}) {
  std::vector<int> ids = tokenizer.encode(prompt);
  if (ids.empty()) ids.push_back(0);
  std::vector<std::vector<int>> all;
  std::vector<double> sizes;
  for (const std::string& text : candidates) {
    all.push_back(tokenizer.encode(text));
    if (how.rule == ScoreRule::per_byte) sizes.push_back(static_cast<double>(text.size()));
    if (how.rule == ScoreRule::per_character)  // the bytes that begin one
      sizes.push_back(static_cast<double>(std::count_if(
          text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; })));
  }
  return detail::scores(model, ids, all, sizes, how);
}

// log P(continuation | prompt), in nats.
template <class Model>
double score(const Model& model, std::span<const int> prompt, std::span<const int> continuation,
             const Scoring& how = {}) {
  const std::vector<int> one(continuation.begin(), continuation.end());
  return score_all(model, prompt, {&one, 1}, how)[0].log_probability;
}
template <class Model>
double score(const Model& model, const Tokenizer& tokenizer, std::string_view prompt,
             std::string_view continuation, const Scoring& how = {}) {
  const std::string one(continuation);
  return score_all(model, tokenizer, prompt, {&one, 1}, how)[0].log_probability;
}

// Index of the candidate with the highest score; of equal ones the first.
inline std::size_t best_of(std::span<const Score> scores) {
  check(!scores.empty(), "nothing to choose from: there are no candidates");
  const auto better = [](const Score& a, const Score& b) { return a.score < b.score; };
  return static_cast<std::size_t>(std::max_element(scores.begin(), scores.end(), better) - scores.begin());
}
template <class Model>
std::size_t choose(const Model& model, const Tokenizer& tokenizer, std::string_view prompt,
                   std::span<const std::string> candidates, const Scoring& how = {}) {
  return best_of(score_all(model, tokenizer, prompt, candidates, how));
}

struct Perplexity {
  double nats = 0;   // sum of -log P
  Index tokens = 0;  // that are scored: all but the first
  double mean() const { return nats / static_cast<double>(tokens); }
  double value() const { return std::exp(mean()); }
};

// Reads the text in windows of `window` tokens, `stride` apart. Each token but the first is scored once, with
// at least window - stride tokens before it, or all if there are fewer. stride = window: no overlap.
struct PerplexityWindows {
  Index window = 0;  // 0: the context
  Index stride = 0;  // 0: half a window
  Index batch = 8;   // windows in a forward
  Exec exec{};
  const bool* allowed = nullptr;
  int task = 0;
};

// std::invalid_argument for a text of fewer than 2 tokens, an invalid id or an option out of range.
template <class Model>
Perplexity perplexity(const Model& model, TokenView tokens, const PerplexityWindows& how = {}) {
  static_assert(Model::config.mask == Mask::causal,
                "perplexity: with Config::mask = Mask::full a token depends on later ones");
  constexpr Index context = Model::config.context;
  const Index targets = tokens.size() - 1;
  check(targets > 0, "a perplexity needs at least 2 tokens; the text has ", tokens.size());
  Index window = how.window > 0 ? how.window : context;
  const Index stride = how.stride > 0 ? how.stride : (window + 1) / 2;
  check(how.window >= 0 && window <= context, "a window of ", how.window, " tokens, expected 1 .. ", context,
        ", the model's context, or 0 for the context");
  check(how.stride >= 0 && stride <= window, "a stride of ", how.stride, " tokens, expected 1 .. ", window,
        ", the window, or 0 for half of it");
  check(how.batch > 0, "a batch of ", how.batch, " windows, expected 1 or more");
  window = std::min(window, targets);
  const Index windows = 1 + (targets - window + stride - 1) / stride;
  Workspace<Model> work({std::min(how.batch, windows), window}, how.exec, {}, Use::inference);
  work.allowed = how.allowed, work.task = how.task;

  Perplexity sum;
  Batch batch;
  std::vector<int> ids(static_cast<std::size_t>(window + 1));
  for (Index i = 0, scored = 0; i < windows; i += batch.shape.batch) {
    batch.shape = {std::min(work.shape.batch, windows - i), window};
    batch.inputs.clear();
    batch.targets.assign(static_cast<std::size_t>(batch.shape.tokens()), -1);
    for (Index b = 0; b < batch.shape.batch; ++b) {
      const Index first = std::min((i + b) * stride, targets - window);  // the last window ends with the text
      tokens.copy(first, window + 1, ids.data());
      batch.inputs.insert(batch.inputs.end(), ids.begin(), ids.end() - 1);
      for (Index t = scored - first; t < window; ++t)
        batch.targets[static_cast<std::size_t>(b * window + t)] = ids[static_cast<std::size_t>(t + 1)];
      scored = first + window;
    }
    sum.tokens += model.forward(batch, work, {}, Objective{}).targets;
    for (Index n = 0; n < batch.shape.tokens(); ++n)
      sum.nats += static_cast<double>(*work.tape.head.loss[n]);  // 0 where there is no target
  }
  return sum;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
