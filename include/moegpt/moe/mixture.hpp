#pragma once
// Optional interfaces of an MoE layer (mixture), and their users:
//   HasLosses<Tape>      the tape derives from LossTape (moe/mixture_losses.hpp): loss of a model, gradcheck
//   HasPlan<Tape>        tape.plan: for_each_mixture, statistics, expert_load, intermediates
//   HasScores<Tape>      tape.router, a router's tape: statistics, intermediates
//   HasExperts<Mixture>  mixture.routed_experts(), with the plan's slots: intermediates compute their outputs
// A mixture around another has the first three if its tape derives from the inner tape, and the last by
//   auto routed_experts() const requires HasExperts<Inner> { return inner.routed_experts(); }
// WrapsMixture<Mixture, Inner>: Mixture has every interface that Inner has.
#include <moegpt/moe/experts.hpp>
#include <moegpt/moe/mixture_losses.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {
template <class T>
void take_plan(const RoutingPlan<T>&);
template <class X>
void take_experts(ExpertsView<X>);
}  // namespace detail

template <class Tape>
concept HasPlan = requires(const Tape& tape) { detail::take_plan(tape.plan); };
template <class Tape>
concept HasScores = requires(const Tape& tape) {
  { tape.router.score[0] };
  { tape.router.lse[0] };
};
template <class Mixture>
concept HasExperts = requires(const Mixture& mixture) { detail::take_experts(mixture.routed_experts()); };

template <class Mixture, class Inner>
concept WrapsMixture = (HasLosses<typename Mixture::Tape> || !HasLosses<typename Inner::Tape>) &&
                       (HasPlan<typename Mixture::Tape> || !HasPlan<typename Inner::Tape>) &&
                       (HasScores<typename Mixture::Tape> || !HasScores<typename Inner::Tape>) &&
                       (HasExperts<Mixture> || !HasExperts<Inner>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
