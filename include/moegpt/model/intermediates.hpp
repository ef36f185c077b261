#pragma once
// All that the mixtures of a model computed in a forward, by name. The tape holds most of it already, and
// what each expert answered is computed again when asked for, so a forward without intermediates has no extra
// cost.
#include <moegpt/model/mixtures.hpp>

#include <cstdint>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Of one mixture, of N tokens. A choice that a token did not make has index -1 and zeros.
template <class T>
struct MixtureIntermediates {
  int layer = 0, experts = 0, choices = 0, dim = 0;
  int expert_dim = 0;  // DE, of an expert's answer: D, unless experts share a projection
  Index tokens = 0;
  std::vector<T> gate_scores{};         // [N, E]     of all experts, as metrics and balance losses see them
  std::vector<int> top_k_indices{};     // [N, K]     the experts of each token, in the order of its choices
  std::vector<T> top_k_scores{};        // [N, K]     their scores
  std::vector<T> gates{};               // [N, K]     what their answers were multiplied with; dropped: 0
  std::vector<std::uint8_t> dropped{};  // [N, K]     1: selected, but over capacity or discarded
  std::vector<T> expert_outputs{};      // [N, K, DE] their answers before dropout, if asked for; dropped: 0
  std::vector<T> final_output{};  // [N, D]     of the mixture, shared experts included, before the residual
  std::vector<std::int64_t> load{};    // [E]        pairs served
  std::vector<std::int64_t> wanted{};  // [E]        requested pairs, before capacity
  double balance_loss = 0, z_loss = 0, importance_loss = 0, load_loss = 0, variance_loss = 0, count_loss = 0,
         own_loss = 0;  // before their coefficients

  // The names in files: f(name, numbers, shape) for each array, f(name, number) for each loss.
  template <class F>
  void for_each_array(F&& f) const {
    const Index N = tokens, E = experts, K = choices;
    f("gate_scores", gate_scores, {N, E});
    f("top_k_indices", top_k_indices, {N, K});
    f("top_k_scores", top_k_scores, {N, K});
    f("gates", gates, {N, K});
    f("dropped", dropped, {N, K});
    if (!expert_outputs.empty()) f("expert_outputs", expert_outputs, {N, K, Index{expert_dim}});
    f("final_output", final_output, {N, Index{dim}});
    f("load", load, {E});
    f("wanted", wanted, {E});
  }
  template <class F>
  void for_each_loss(F&& f) const {
    f("balance_loss", balance_loss);
    f("z_loss", z_loss);
    f("importance_loss", importance_loss);
    f("load_loss", load_loss);
    f("variance_loss", variance_loss);
    f("count_loss", count_loss);
    f("own_loss", own_loss);
  }
};

template <class T>
struct Intermediates {
  Shape shape;             // of the batch
  std::vector<int> ids{};  // [N] of the tokens, for files, if one puts them here
  std::vector<MixtureIntermediates<T>> layers{};
};

struct IntermediatesOptions {
  bool expert_outputs = false;  // runs every expert once more
};

namespace detail {

// A block whose norms stand before its branches, or behind them.
template <class BlockTape>
concept PreNormTape = requires(const BlockTape& tape) { tape.normed2; };
// What the mixture of a block read.
template <class BlockTape>
const auto& mixture_input(const BlockTape& tape) {
  if constexpr (PreNormTape<BlockTape>)
    return tape.normed2;
  else
    return tape.middle;
}

// routed: null if the mixture does not tell.
template <class T>
[[gnu::noinline]] void copy_routes(const RoutingPlan<T>& plan, const Routed<T>* routed,
                                   MixtureIntermediates<T>& to) {
  const auto pairs = static_cast<std::size_t>(plan.tokens * plan.choices);
  to.top_k_indices.assign(pairs, no_expert);
  to.top_k_scores.assign(pairs, T(0));
  to.gates.assign(pairs, T(0));
  to.dropped.assign(pairs, 0);
  for (int e = 0; e < plan.experts; ++e)
    for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s) {
      const auto pair = static_cast<std::size_t>(plan.token[s] * plan.choices + plan.choice[s]);
      to.top_k_indices[pair] = e;
      to.gates[pair] = plan.gate[s];
    }
  for (std::size_t pair = 0; pair < pairs && routed; ++pair) {
    int& e = to.top_k_indices[pair];
    if (const auto* selected = routed->selected; e == no_expert && selected) {
      to.dropped[pair] = has_expert(selected->data(), static_cast<Index>(pair), plan.choices, plan.experts);
      e = (*selected)[static_cast<Index>(pair)];
    }
    if (e != no_expert) to.top_k_scores[pair] = routed->score[static_cast<Index>(pair) / plan.choices][e];
  }
  if (routed) to.gate_scores.assign(routed->score.data, routed->score.data + plan.tokens * plan.experts);
}

// y_s = expert(x_s) for every slot, into [N, K, DE].
template <ExpertNetwork X, class T>
[[gnu::noinline]] void run_experts(ExpertsView<X> experts, const RoutingPlan<T>& plan, In<X::dim, T> x,
                                   const Exec& exec, MixtureIntermediates<T>& to) {
  constexpr int DE = output_dim<X>();
  const Index slot_count = plan.slot_count();
  typename ExpertsView<X>::Tape tape;
  typename ExpertsView<X>::Scratch scratch;
  Tokens<DE, T> output(slot_count);
  tape.resize(slot_count);
  scratch.resize(experts.count, slot_count);
  experts.forward(plan.at_slots(x), plan.layout(), output, tape, scratch, {.exec = exec});
  to.expert_dim = DE;
  to.expert_outputs.assign(static_cast<std::size_t>(plan.tokens * plan.choices * DE), T(0));
  for (Index s = 0; s < slot_count; ++s)
    std::copy_n(output[s], DE,
                to.expert_outputs.begin() + (plan.token[s] * plan.choices + plan.choice[s]) * DE);
}

template <class B>
auto copied(const B& numbers, Index count) {
  return std::vector(numbers, numbers + count);
}

}  // namespace detail

// Of the last forward or logits of a workspace, with or without a cache; its batch is not needed any more.
// std::invalid_argument for an inference workspace, or before a forward.
template <class Model>
Intermediates<typename Model::Scalar> intermediates(const Model& model, const Workspace<Model>& work,
                                                    IntermediatesOptions options = {}) {
  using T = typename Model::Scalar;
  constexpr int D = Model::config.dim;
  check_mixtures(work, "intermediates");
  Intermediates<T> all{work.last.pass.shape};
  for (int layer = 0; layer < Model::config.layers; ++layer)
    trunk_of(model).blocks.at_layer(
        layer,
        [&](const auto& block, const auto& block_tape) {
          const auto& tape = block_tape.mixture;
          using MixtureTape = std::remove_cvref_t<decltype(tape)>;
          if constexpr (HasPlan<MixtureTape>) {
            const RoutingPlan<T>& plan = tape.plan;
            MixtureIntermediates<T>& to = all.layers.emplace_back();
            to.layer = layer, to.experts = plan.experts, to.choices = plan.choices, to.dim = D,
            to.tokens = plan.tokens;
            if constexpr (HasScores<MixtureTape>) {
              const detail::Routed<T> routed(tape.router);
              detail::copy_routes(plan, &routed, to);
            } else {
              detail::copy_routes<T>(plan, nullptr, to);
            }
            if (options.expert_outputs) {
              if constexpr (HasExperts<std::remove_cvref_t<decltype(block.mixture)>>)
                detail::run_experts(block.mixture.routed_experts(), plan,
                                    detail::mixture_input(block_tape).view(), work.exec, to);
              else
                reject("intermediates: the mixture of layer ", layer,
                       " has a plan, but does not say of which experts: "
                       "give it routed_experts(), which returns their ExpertsView, or that of the mixture "
                       "inside "
                       "it");
            }
            to.final_output = detail::copied(block_tape.mixed[0], plan.tokens * D);
            for (int e = 0; e < plan.experts; ++e) {
              to.load.push_back(plan.load(e));
              to.wanted.push_back(plan.wanted[e]);
            }
            if constexpr (HasLosses<MixtureTape>) {
              to.balance_loss = static_cast<double>(tape.balance);
              to.z_loss = static_cast<double>(tape.z);
              to.importance_loss = static_cast<double>(tape.importance);
              to.load_loss = static_cast<double>(tape.load);
              to.variance_loss = static_cast<double>(tape.variance);
              to.count_loss = static_cast<double>(tape.count);
              to.own_loss = static_cast<double>(tape.own);
            }
          }
        },
        trunk_of(work.tape).blocks);
  return all;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
