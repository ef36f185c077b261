#pragma once
// Arguments of routers, MoE layers and their losses besides the Pass, which points to them.
#include <moegpt/routing/objective.hpp>
#include <moegpt/routing/ranks.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct RoutingContext {
  Objective objective{};
  const int* ids = nullptr;       // [tokens] token ids, for routers such as HashRouter
  const bool* allowed = nullptr;  // [experts] experts that can be selected; null: all
  Index allowed_stride = 0;       // number of experts: allowed [layers, experts]; 0: the same in all layers
  int task = 0;                   // task id, for routers such as Masked
  const Ranks* ranks = nullptr;   // that have the other parts of the batch; null: none
};

// The context of a pass, or a default one.
inline const RoutingContext& routing_of(const Pass& pass) {
  static constexpr RoutingContext none{};
  return pass.routing ? *pass.routing : none;
}
// The objective of the layer that the pass is in: coefficients are multiplied by its layer weight.
inline Objective objective_of(const Pass& pass) {
  const Objective& whole = routing_of(pass).objective;
  return whole.layer_weights.empty() ? whole : scaled(whole, whole.layer_weight(pass.layer));
}
// [experts] of the pass's layer; null: all.
inline const bool* allowed_experts(const Pass& pass) {
  const RoutingContext& routing = routing_of(pass);
  return routing.allowed ? routing.allowed + pass.layer * routing.allowed_stride : nullptr;
}
inline bool is_allowed(int expert, const Pass& pass) {
  const bool* allowed = allowed_experts(pass);
  return !allowed || allowed[expert];
}
// Dropout probability of expert outputs; 0 without a key.
inline double applied_expert_dropout(const Pass& pass) {
  return pass.key ? routing_of(pass).objective.expert_dropout.value_or(pass.dropout) : 0;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
