#pragma once
// Routing metrics of a plan, or of counts accumulated over plans. Counts add up over batches and machines,
// ratios do not, so counts are stored.
#include <moegpt/routing/routing_plan.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// ---- metrics of counts per expert ----

// MaxVio (Wang et al. 2024): (max c - mean c) / mean c. Balanced: 0; all pairs at one expert: E - 1.
inline double max_violation(std::span<const Index> count) {
  double most = 0, total = 0;
  for (const Index c : count) most = std::max(most, static_cast<double>(c)), total += static_cast<double>(c);
  return total > 0 ? most * static_cast<double>(count.size()) / total - 1 : 0;
}

// CV (Shazeer et al. 2017): standard deviation (divisor E) / mean.
inline double coefficient_of_variation(std::span<const Index> count) {
  const auto experts = static_cast<double>(count.size());
  double total = 0, squares = 0;
  for (const Index c : count) total += static_cast<double>(c);
  if (total == 0) return 0;
  for (const Index c : count) squares += std::pow(static_cast<double>(c) - total / experts, 2);
  return std::sqrt(squares / experts) / (total / experts);
}

// Number of experts without tokens.
inline int dead_experts(std::span<const Index> count) {
  return static_cast<int>(std::count(count.begin(), count.end(), Index{0}));
}

// Entropy -sum p ln p in nats, with p = value / sum of values. One-hot: 0; uniform: ln count.
template <class T>
double entropy(const T* value, Index count) {
  double total = 0, sum = 0;
  for (Index i = 0; i < count; ++i) {
    const auto v = static_cast<double>(value[i]);
    if (v > 0) total += v, sum += v * std::log(v);  // 0 ln 0 = 0
  }
  return total > 0 ? std::log(total) - sum / total : 0;
}

// ---- use of experts ----

// expert [tokens, choices]: the expert of each pair; no_expert if the pair was not requested, or dropped.
template <class T>
void experts_of_pairs(const RoutingPlan<T>& plan, Buffer<int>& expert) {
  expert.resize(plan.tokens * plan.choices);
  expert.fill(no_expert);
  for (int e = 0; e < plan.experts; ++e)
    for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s)
      expert[plan.token[s] * plan.choices + plan.choice[s]] = e;
}

// Router saturation (Muennighoff et al. 2024, OLMoE): overlap of the tokens' experts at two checkpoints,
// 2 |A and B| / (|A| + |B|), which is |A and B| / K if all tokens have K experts. a, b [tokens, choices] from
// experts_of_pairs, of the same tokens. The same routing: 1; independent uniform routings: K / E.
// std::invalid_argument for other sizes.
inline double saturation(std::span<const int> a, std::span<const int> b, int choices) {
  check(a.size() == b.size() && choices > 0 && std::ssize(a) % choices == 0,
        "saturation compares routings of the same tokens; found ", a.size(), " and ", b.size(),
        " pairs with ", choices, " choices for each token");
  double common = 0, pairs = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    pairs += (a[i] != no_expert) + (b[i] != no_expert);
    const auto first = b.begin() + static_cast<Index>(i) / choices * choices;
    if (a[i] != no_expert) common += static_cast<double>(std::count(first, first + choices, a[i]));
  }
  return pairs > 0 ? 2 * common / pairs : 0;
}

// Routing counts of one MoE layer, summed over forwards.
struct RoutingCounts {
  int experts = 0;
  Index tokens = 0;             // without padding
  std::vector<Index> load;      // [E]     pairs that each expert processed
  std::vector<Index> wanted;    // [E]     requested pairs, before capacity
  std::vector<Index> together;  // [E, E]  tokens that use both experts; diagonal: that use e
  std::vector<double> score;    // [E]     sum of scores over tokens
  double entropy_sum = 0;       // over tokens, of the entropy of the scores
  double top_gate_sum = 0;      // over tokens, of the largest gate; 0 for a token without experts
  double lse2_sum = 0;          // over tokens, of lse^2

  // Adds one forward. scores [tokens, E] and lse [tokens, 1] are those of the router's tape, or empty.
  // std::invalid_argument for a plan with another number of experts.
  template <class T>
  void add(const RoutingPlan<T>& plan, std::type_identity_t<MatrixView<const T>> scores,
           std::type_identity_t<MatrixView<const T>> lse, const Pass& pass) {
    const int E = plan.experts, K = plan.choices;
    if (experts == 0) resize(E);
    check(experts == E, "these counts are of a mixture with ", experts, " experts, the plan has ", E);
    tokens += routed_tokens(pass);
    for (int e = 0; e < E; ++e) {
      load[at(e)] += plan.load(e);
      wanted[at(e)] += plan.wanted[e];
    }
    experts_of_pairs(plan, expert_);
    for (Index n = 0; n < plan.tokens; ++n) {
      if (pass.is_padding(n)) continue;
      const int* expert = expert_.data() + n * K;
      double top = 0;
      for (int i = 0; i < K; ++i) {
        if (expert[i] == no_expert) continue;
        top = std::max(top, static_cast<double>(plan.gate[plan.slot[n * K + i]]));
        for (int j = 0; j < K; ++j)
          if (expert[j] != no_expert) ++together[at(expert[i]) * at(E) + at(expert[j])];
      }
      top_gate_sum += top;
      if (!scores.empty()) {
        entropy_sum += entropy(scores[n], E);
        for (int e = 0; e < E; ++e) score[at(e)] += static_cast<double>(scores[n][e]);
      }
      if (!lse.empty()) lse2_sum += static_cast<double>(*lse[n]) * static_cast<double>(*lse[n]);
    }
  }
  // Sets all counts to 0. Keeps the memory.
  void clear() {
    tokens = 0;
    entropy_sum = top_gate_sum = lse2_sum = 0;
    for (auto* counts : {&load, &wanted, &together}) std::fill(counts->begin(), counts->end(), Index{0});
    std::fill(score.begin(), score.end(), 0.0);
  }

  double max_violation() const { return moegpt::max_violation(wanted); }  // of requested pairs
  double cv() const { return coefficient_of_variation(wanted); }
  int dead() const { return dead_experts(load); }
  double mean_entropy() const { return per_token(entropy_sum); }         // of the scores; at most ln E
  double load_entropy() const { return entropy(load.data(), experts); }  // of the load; balanced: ln E
  double mean_top_gate() const { return per_token(top_gate_sum); }
  double mean_lse2() const { return per_token(lse2_sum); }                 // the z-loss
  double mean_score(int e) const { return per_token(score[checked(e)]); }  // of an expert
  double share(int e) const {                                              // of the load
    const Index all = total(load);
    return all > 0 ? static_cast<double>(load[checked(e)]) / static_cast<double>(all) : 0;
  }
  double dropped() const {  // fraction of the requested pairs
    const Index all = total(wanted);
    return all > 0 ? static_cast<double>(all - total(load)) / static_cast<double>(all) : 0;
  }
  double coactivation(int a, int b) const {  // fraction of tokens that use both
    return per_token(static_cast<double>(together[checked(a) * at(experts) + checked(b)]));
  }

 private:
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }
  std::size_t checked(int e) const {
    check(e >= 0 && e < experts, "these counts have no expert ", e, ", expected 0 .. ", experts - 1);
    return at(e);
  }
  static Index total(const std::vector<Index>& counts) {
    Index sum = 0;
    for (const Index c : counts) sum += c;
    return sum;
  }
  double per_token(double sum) const { return tokens > 0 ? sum / static_cast<double>(tokens) : 0; }
  void resize(int E) {
    experts = E;
    load.resize(at(E));
    wanted.resize(at(E));
    score.resize(at(E));
    together.resize(at(E) * at(E));
  }
  Buffer<int> expert_;  // scratch of add
};

// Expert use by class of token. A class is any label: a dialect, a token id, a position.
struct ClassCounts {
  int classes = 0, experts = 0;
  std::vector<Index> count{};  // [classes, E] pairs processed

  // label [tokens]: the class of each token, in [0, classes); negative: not counted. std::invalid_argument
  // for other labels and sizes.
  template <class T>
  void add(const RoutingPlan<T>& plan, std::span<const int> label) {
    check(classes >= 1, "this table has ", classes, " classes, expected at least 1");
    check(std::ssize(label) == plan.tokens, "there are ", label.size(), " labels for ", plan.tokens,
          " tokens");
    for (Index n = 0; n < plan.tokens; ++n)
      if (const int c = label[static_cast<std::size_t>(n)]; c >= classes)
        check(false, "token ", n, " has label ", c, ", expected less than ", classes);
    if (experts == 0) {
      experts = plan.experts;
      count.resize(cell(classes, 0));
    }
    check(experts == plan.experts, "this table has ", experts, " experts, the plan ", plan.experts);
    for (int e = 0; e < experts; ++e)
      for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s) {
        const int c = label[static_cast<std::size_t>(plan.token[s])];
        if (c >= 0) ++count[cell(c, e)];
      }
  }
  void clear() { std::fill(count.begin(), count.end(), Index{0}); }

  Index at(int c, int e) const {
    check(c >= 0 && c < classes && e >= 0 && e < experts, "this table has no class ", c, " and expert ", e,
          ": it has ", classes, " classes and ", experts, " experts");
    return count[cell(c, e)];
  }

  // Mutual information I(class; expert) = H(class) + H(expert) - H(class, expert), in nats. Independent: 0;
  // at most min(H(class), H(expert)). Sampling noise adds about (classes - 1) (E - 1) / (2 pairs).
  double mutual_information() const {
    const double information = class_entropy() + expert_entropy() - entropy(count.data(), std::ssize(count));
    return information > 0 ? information : 0;  // rounding
  }
  // Normalised mutual information I / H(class): 1 if the expert determines the class.
  double explained() const {
    const double H = class_entropy();
    return H > 0 ? mutual_information() / H : 0;
  }
  double class_entropy() const {
    return marginal(classes, [](int c, int) { return c; });
  }
  double expert_entropy() const {
    return marginal(experts, [](int, int e) { return e; });
  }

 private:
  std::size_t cell(int c, int e) const {
    return static_cast<std::size_t>(c) * static_cast<std::size_t>(experts) + static_cast<std::size_t>(e);
  }
  template <class F>
  double marginal(int size, F&& place) const {
    std::vector<Index> sum(static_cast<std::size_t>(size));
    for (int c = 0; c < classes; ++c)
      for (int e = 0; e < experts; ++e) sum[static_cast<std::size_t>(place(c, e))] += at(c, e);
    return entropy(sum.data(), size);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
