#pragma once
// Models of another number of experts from trained ones, by copy_weights (model/copy_weights.hpp):
//   upcycle        each expert is a copy of the dense FFN (Komatsuzaki et al. 2022)
//   grow_experts   adds experts, which are out of reach at first
//   prune_experts  keeps some of the experts, of each layer its own
//   merge_experts  weighted means of experts
// `to` has the config of `from`, and an MoE layer's weights the paths of MoELayer: router, experts.<e>. All
// copy the model's options and take any trees, so they move Adam's moments, too.
#include <moegpt/model/copy_experts.hpp>
#include <moegpt/model/mixtures.hpp>
#include <moegpt/routing/token_choice.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Copies a dense model to an MoE model whose experts have its FFN's shape. Each expert is a copy of the FFN
// of its layer; routers, and other weights that the dense model lacks, stay as init made them. The functions
// are then equal up to rounding if the gates of each token sum to 1 (renormalised gates, normalised sigmoids,
// all experts by softmax scores). They are not with unnormalised gates, expert choice, Soft MoE, shared
// experts, or a capacity that drops pairs. Throws std::invalid_argument without experts, and as copy_weights.
template <class From, class To>
CopyReport upcycle(const From& from, To& to) {
  const detail::WeightsByPath weights = detail::by_path(detail::list_weights(from));
  bool experts = false;
  const CopyReport report =
      detail::copy_by_rule(weights, detail::list_weights(to), [&](const std::string& path) {
        const detail::ExpertPath parsed = detail::parse_expert_path(path);
        if (parsed.expert < 0) return weights.contains(path) ? path : std::string();
        experts = true;
        std::string ffn(parsed.before.substr(0, parsed.before.rfind('.', parsed.before.size() - 2) + 1));
        ffn += "ffn.";
        ffn += parsed.after;
        return ffn;
      });
  check(experts, "upcycle: the destination has no experts: give it a router, such as TopKRouter<8, 2>");
  detail::copy_options(from, to);
  return report;
}

// `kept`: [layers or 1] the experts of `from` that each layer of `to` has, in this order. In ascending order,
// if the others got no tokens in `from` (ExpertMask), the functions have the same bits for gates of the
// selected logits or scores, and are equal up to rounding for softmax scores as gates.
template <class From, class To>
CopyReport prune_experts(const From& from, To& to, const std::vector<std::vector<int>>& kept) {
  ExpertMap map;
  for (const auto& layer : kept) {
    auto& sums = map.layers.emplace_back();
    for (const int e : layer) sums.push_back({{e}});
  }
  return copy_experts(from, to, map);
}

// cluster: [layers or 1][experts of `from`] the expert of `to` that each becomes a part of. weight: of the
// same size, such as the loads; of a cluster without weight, all count alike. An expert of `to`, and its part
// of the router, is the weighted mean of its cluster. Means of weights make sense for experts of one origin,
// such as one FFN that was upcycled. std::invalid_argument for other sizes, a weight below 0, an empty
// cluster.
template <class From, class To>
CopyReport merge_experts(const From& from, To& to, const std::vector<std::vector<int>>& cluster,
                         const std::vector<std::vector<double>>& weight) {
  check(cluster.size() == weight.size(), "merge_experts: there are clusters of ", cluster.size(),
        " layers and weights of ", weight.size(), ", expected one list each");
  ExpertMap map;
  for (std::size_t l = 0; l < cluster.size(); ++l) {
    check(cluster[l].size() == weight[l].size(), "merge_experts: list ", l, " has clusters of ",
          cluster[l].size(), " experts and weights of ", weight[l].size());
    auto& sums = map.layers.emplace_back();
    for (std::size_t e = 0; e < cluster[l].size(); ++e) {
      const int c = cluster[l][e];
      check(c >= 0 && c < std::ssize(cluster[l]), "merge_experts: expert ", e, " of list ", l,
            " is in cluster ", c, ", expected an expert of the destination");
      check(weight[l][e] >= 0 && std::isfinite(weight[l][e]), "merge_experts: the weight of expert ", e,
            " of list ", l, " is ", weight[l][e], ", expected a finite number, 0 or more");
      if (c >= std::ssize(sums)) sums.resize(static_cast<std::size_t>(c) + 1);
      sums[static_cast<std::size_t>(c)].push_back({static_cast<int>(e), weight[l][e]});
    }
    for (std::size_t c = 0; c < sums.size(); ++c) {
      check(!sums[c].empty(), "merge_experts: no expert of list ", l, " is in cluster ", c);
      double total = 0;
      for (const auto& part : sums[c]) total += part.weight;
      for (auto& part : sums[c])
        part.weight = total > 0 ? part.weight / total : 1 / static_cast<double>(sums[c].size());
    }
  }
  return copy_experts(from, to, map);
}

// Additional experts, which are out of reach at first, so that the function does not change.
struct Growth {
  // [experts of `to`] the allowed experts of the next passes, those of `from`: work.allowed. They may all be
  // allowed once the new ones are to be trained.
  const bool* allowed = nullptr;
  // Without allowed experts: the new selection biases are the smallest of their layer less this, above 1.
  // balance_selection raises them by its rate in each step.
  double bias_gap = 2;
  std::vector<int>
      copies{};  // [new experts] the expert of `from` to copy; empty: they stay as init made them
};

namespace detail {
template <int E, int K, class T, bool KeepsLogits, bool Discards>
std::bool_constant<KeepsLogits> scores_are_independent(
    const TokenChoiceTape<E, K, T, KeepsLogits, Discards>&);
template <class Model>
concept IndependentScores =
    requires(typename std::remove_cvref_t<decltype(trunk_of(std::declval<Model&>()))>::MoEBlock::Tape tape) {
      requires decltype(scores_are_independent(tape.mixture.router))::value;
    };

inline void check_reach(const Growth& growth, int before, int after, const std::vector<CopiedWeight>& to,
                        bool independent_scores) {
  const int added = after - before;
  check(growth.copies.empty() || std::ssize(growth.copies) == added, "grow_experts: ", growth.copies.size(),
        " experts to copy for ", added, " new experts: one each, or none");
  for (int e = 0; growth.allowed && e < after; ++e)
    check(growth.allowed[e] == (e < before), "grow_experts: expert ", e,
          e < before ? " was there" : " is new", ", but is ", e < before ? "not allowed" : "allowed",
          ": allow 0 .. ", before - 1, " at first");
  if (growth.allowed) return;
  check(growth.bias_gap > 1 && std::isfinite(growth.bias_gap), "grow_experts: bias_gap is ", growth.bias_gap,
        ", expected a finite number above 1, the largest score");
  std::map<int, bool> biased;  // of layers
  for (const CopiedWeight& weight : to) {
    const ExpertPath path = parse_expert_path(weight.path);
    if (path.router || path.expert >= 0) biased[path.layer] |= weight.path.ends_with("router.selection_bias");
  }
  for (const auto& [layer, has_bias] : biased)
    check(has_bias, "grow_experts: the router of layer ", layer,
          " has no selection bias, so new experts would be selected at once: pass the allowed experts of the "
          "next passes (Growth::allowed), or use a router with a selection bias");
  check(independent_scores,
        "grow_experts: the softmax scores of the experts would change with their number, and with them what "
        "scores + biases select: pass the allowed experts of the next passes (Growth::allowed)");
}
[[gnu::noinline]] inline void lower_new_biases(const std::vector<CopiedWeight>& to, int before, double gap) {
  for (const CopiedWeight& weight : to) {
    if (weight.empty || !weight.path.ends_with("router.selection_bias")) continue;
    Buffer<double> bias(weight.cols);
    weight.read(0, bias.data());
    const double lowest = *std::min_element(bias.begin(), bias.begin() + before);
    std::fill(bias.begin() + before, bias.end(), lowest - gap);
    weight.write(0, bias.data());
  }
}
}  // namespace detail

// Copies a model to one with more experts, which are the last ones. The new experts cannot be selected at
// first: by Growth::allowed, or by low selection biases, for routers with scores that do not depend on other
// experts (SigmoidRouter). So the function is the same, with the same bits for gates of the selected logits
// or scores, and up to rounding for softmax scores as gates. It is not with expert groups or expert choice,
// or a capacity, which depends on the number of experts. Throws std::invalid_argument if the new experts
// could be selected, and as copy_weights.
template <class From, class To>
CopyReport grow_experts(const From& from, To& to, const Growth& growth = {}) {
  constexpr int before = From::RouterRecipe::experts, after = To::RouterRecipe::experts;
  static_assert(before < after, "grow_experts: the destination must have more experts than the source");
  static_assert(From::RouterRecipe::active == To::RouterRecipe::active,
                "grow_experts: both routers must select the same number of experts for a token");
  const std::vector<detail::CopiedWeight> weights = detail::list_weights(to);
  detail::check_reach(growth, before, after, weights, detail::IndependentScores<To>);
  ExpertMap map{{std::vector<ExpertMap::Sum>(after)}};
  for (int e = 0; e < after; ++e)
    if (e < before)
      map.layers[0][static_cast<std::size_t>(e)] = {{e}};
    else if (!growth.copies.empty())
      map.layers[0][static_cast<std::size_t>(e)] = {{growth.copies[static_cast<std::size_t>(e - before)]}};
  CopyReport report = copy_experts(from, to, map);
  if (!growth.allowed) detail::lower_new_biases(weights, before, growth.bias_gap);
  return report;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
