#pragma once
// MoE layer: y_n = sum_j g_nj expert_{e_nj}(x_n), with any Router. y_n = 0 for a token without experts.
// Forward is route, run, combine. Each step and its backward are public, for losses on expert outputs and for
// expert parallelism between the steps. Experts read tokens through Gathered, without a copy; backward copies
// dy to slots.
#include <moegpt/moe/mixture.hpp>
#include <moegpt/routing/top_k_router.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <Router Recipe, ExpertNetwork ExpertType>
struct MoELayer {
  static_assert(gate_learns<Recipe>());
  static_assert(
      Recipe::experts >= 1 && Recipe::active >= 1 && Recipe::active <= Recipe::experts,
      "MoELayer: a router has at least one expert, and gives a token at least one and at most all of them");
  static_assert(Recipe::experts <= 1 << 16, "MoELayer: at most 65536 experts");
  using Scalar = typename ExpertType::Scalar;
  using T = Scalar;
  using RouterType = typename Recipe::template For<ExpertType::dim, T>;
  static constexpr int D = ExpertType::dim, DOut = output_dim<ExpertType>(), E = Recipe::experts;
  static constexpr int dim_in = D, dim_out = DOut;
  static constexpr bool causal = Recipe::causal;
  static constexpr DropRule drop = drop_rule_of<Recipe>();
  static constexpr std::string_view name = "moe";

  RouterType router;
  Experts<ExpertType, E> experts;

  static constexpr auto fields() {
    return Fields{Field{"router", &MoELayer::router}, Field{"experts", &MoELayer::experts, Kind::sparse}};
  }
  struct Tape : LossTape<T> {
    RoutingPlan<T> plan;
    typename RouterType::Tape router;
    typename Experts<ExpertType, E>::Tape expert;  // [slots]
    [[gnu::noinline]] void resize(const Pass& pass) {
      LossTape<T>::resize(E, pass);
      plan.drop = drop;
      plan.max_slots = slots_in(pass);
      plan.resize(pass.tokens(), Recipe::active, E);
      router.resize(pass);
      expert.resize(slots_in(pass));
    }
  };
  struct Scratch {
    typename RouterType::Scratch router;
    typename Experts<ExpertType, E>::Scratch experts;
    Tokens<DOut, T> output;  // [slots] of the experts
    Tokens<D, T> d_input;    // [slots]
    Buffer<T> d_gate;        // [slots]
    LossScratch<T> losses;
    [[gnu::noinline]] void resize(const Pass& pass) {
      const Index slot_count = slots_in(pass);
      router.resize(pass);
      experts.resize(E, slot_count);
      output.resize(slot_count);
      d_input.resize(slot_count);
      d_gate.resize(slot_count);
      losses.resize(E, pass);
    }
  };

  void forward(In<D, T> x, Out<DOut, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    scratch.output.resize(slots_in(pass));
    route(x, tape, pass);
    run(x, scratch.output, tape, scratch, pass);
    combine(tape.plan, scratch.output, y, pass);
    measure_losses<T>(tape.router, tape.plan, tape, pass);
  }

  // Without combine_backward: run_backward computes d_gate without stored expert outputs.
  void backward(In<D, T> x, const Tape& tape, In<DOut, T> dy, Out<D, T> dx, MoELayer& grad, Scratch& scratch,
                const Pass& pass) const {
    scratch.d_gate.resize(slots_in(pass));
    T* const d_gate = scratch.d_gate.data();
    run_backward(x, tape, tape.plan.at_slots(dy), dx, grad, scratch, pass, tape.plan.gate.data(), d_gate);
    route_backward(x, tape, d_gate, Sum(dx), grad, scratch, pass);
  }

  // Computes tape.plan of x [tokens, D]: the slots of each expert, and gate g_s of slot s.
  // std::invalid_argument for a plan that check_plan rejects.
  void route(In<D, T> x, Tape& tape, const Pass& pass) const {
    pass.check_fits(x.count, pass.tokens());
    check_objective(routing_of(pass).objective);
    tape.resize(pass);
    router.forward(x, tape.plan, tape.router, pass);
    check_plan(tape.plan, E, Recipe::active, drop, router_text<Recipe>, pass);
  }
  // output_s = dropout(expert(x_n)) for slot s of token n;  output [slots, DOut]
  void run(In<D, T> x, Out<DOut, T> output, Tape& tape, Scratch& scratch, const Pass& pass) const {
    scratch.experts.resize(E, slots_in(pass));
    experts.view().forward(tape.plan.at_slots(x), tape.plan.layout(), output, tape.expert, scratch.experts,
                           pass, expert_dropout(applied_expert_dropout(pass), pass));
  }
  // y_n = sum of g_s output_s over slots s of token n;  y [tokens, DOut]
  static void combine(const RoutingPlan<T>& plan, In<DOut, T> output, Out<DOut, T> y, const Pass& pass) {
    kernels::combine<T>(pass.exec, output, plan.slot.data(), plan.choices, plan.gate.data(), y);
  }

  // d_output_s = g_s dy_n,  d_gate_s = <dy_n, output_s>;  d_output [slots, DOut], d_gate [slots]
  static void combine_backward(const RoutingPlan<T>& plan, In<DOut, T> output, In<DOut, T> dy,
                               Out<DOut, T> d_output, T* d_gate, const Pass& pass) {
    for_each_piece(pass.exec, plan.slot_count(), token_piece, [&](Rows rows) {
      for (Index s = rows.first; s < rows.first + rows.count; ++s) {
        d_gate[s] = kernels::dot(dy[plan.token[s]], output[s], DOut);
        kernels::scale(DOut, plan.gate[s], dy[plan.token[s]], d_output[s]);
      }
    });
  }
  // d_output [slots, DOut] is the gradient of output. Computes dx [tokens, D]; adds the experts' gradients to
  // grad. With gate [slots], d_output is the gradient of gate_s output_s: d_gate_s = <d_output_s, output_s>.
  void run_backward(In<D, T> x, const Tape& tape, Gathered<DOut, T> d_output, Out<D, T> dx, MoELayer& grad,
                    Scratch& scratch, const Pass& pass, const T* gate = nullptr, T* d_gate = nullptr) const {
    scratch.experts.resize(E, slots_in(pass));
    scratch.d_input.resize(slots_in(pass));
    const RoutingPlan<T>& plan = tape.plan;
    const auto slots_x = plan.at_slots(x);
    const Out<D, T> d_input = dx.empty() ? Out<D, T>{} : scratch.d_input.view();
    experts.view().backward(slots_x, plan.layout(), tape.expert, d_output, gate, d_input, d_gate,
                            scratch.experts, pass);
    experts.view().backward_weights(slots_x, plan.layout(), tape.expert, grad.experts.data(), scratch.experts,
                                    pass);
    if (!dx.empty()) kernels::combine<T>(pass.exec, d_input, plan.slot.data(), plan.choices, nullptr, dx);
  }
  // From d_gate [slots] and the auxiliary losses: adds the router's gradients to dx [tokens, D] and grad.
  // Adds the gradient of the importance loss to d_gate.
  void route_backward(In<D, T> x, const Tape& tape, T* d_gate, Sum<D, T> dx, MoELayer& grad, Scratch& scratch,
                      const Pass& pass) const {
    const RouterSignal<T> signal =
        signal_of_losses<T>(tape, tape.router, tape.plan, d_gate, scratch.losses, pass);
    router.backward(x, tape.plan, tape.router, signal, dx, grad.router, scratch.router, pass);
  }

  ExpertsView<ExpertType> routed_experts() const { return experts.view(); }

 private:
  static Index slots_in(const Pass& pass) { return max_slots_of<Recipe>(pass); }
};

// The layer of a router specification: MoELayer, or Recipe::Mixture<Self, Expert> if it has one. Self is the
// outermost specification, such as AllowNonCausal<Recipe>.
namespace detail {
template <class Recipe, ExpertNetwork ExpertType>
struct MixtureFor {
  using type = MoELayer<Recipe, ExpertType>;
};
template <class Recipe, ExpertNetwork ExpertType>
  requires requires { typename Recipe::template Mixture<Recipe, ExpertType>; }
struct MixtureFor<Recipe, ExpertType> {
  using type = typename Recipe::template Mixture<Recipe, ExpertType>;
};
}  // namespace detail
template <class Recipe, ExpertNetwork ExpertType>
using MixtureOf = typename detail::MixtureFor<Recipe, ExpertType>::type;

static_assert(lists_every_field<MoELayer<TopKRouter<4, 2>, Expert<4, 8>>>());
static_assert(Layer<MoELayer<TopKRouter<4, 2>, Expert<4, 8>>>);
static_assert(HasExperts<MoELayer<TopKRouter<4, 2>, Expert<4, 8>>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
