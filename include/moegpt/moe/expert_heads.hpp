#pragma once
// MoE layer with a linear head for each expert, from D to DOut, for instance to the logits of classes:
//   z_n = sum_j g_nj (H_e h_nj + c_e),   h_nj = expert_e(x_n),   e = e_nj
// Forward is the MoE layer's route and run, the heads, and combine. To fine-tune a trained MoE layer, assign
// it to `mixture`; the heads are new. MoELayer<Recipe, LinearExpert<D, DOut>> has heads on the tokens
// themselves.
#include <moegpt/layers/linear_expert.hpp>
#include <moegpt/moe/moe_layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <Router Recipe, ExpertNetwork ExpertType, int DOut>
struct ExpertHeads {
  static_assert(DOut >= 1, "ExpertHeads: a head must have at least 1 output");
  using Mixture = MoELayer<Recipe, ExpertType>;
  using HeadType = LinearExpert<Mixture::dim_out, DOut, typename NumbersOf<ExpertType>::type>;
  using Scalar = typename ExpertType::Scalar;
  using T = Scalar;
  static constexpr int D = Mixture::dim_in, F = Mixture::dim_out, E = Recipe::experts;
  static constexpr int dim_in = D, dim_out = DOut;
  static constexpr bool causal = Mixture::causal;
  static constexpr std::string_view name = Mixture::name;

  Mixture mixture;
  Experts<HeadType, E> heads;

  static constexpr auto fields() {
    return Fields{Field{"", &ExpertHeads::mixture}, Field{"heads", &ExpertHeads::heads, Kind::sparse}};
  }
  struct Tape : Mixture::Tape {
    Tokens<F, T> hidden;  // [slots] outputs of the experts
    typename Experts<HeadType, E>::Tape head;
    [[gnu::noinline]] void resize(const Pass& pass) {
      Mixture::Tape::resize(pass);
      hidden.resize(slots_in(pass));
      head.resize(slots_in(pass));
    }
  };
  struct Scratch {
    typename Mixture::Scratch mixture;
    typename Experts<HeadType, E>::Scratch heads;
    Tokens<DOut, T> output;  // [slots] of the heads
    Tokens<F, T> d_hidden;   // [slots]
    Buffer<T> d_gate;        // [slots]
    [[gnu::noinline]] void resize(const Pass& pass) {
      const Index slot_count = slots_in(pass);
      mixture.resize(pass);
      heads.resize(E, slot_count);
      output.resize(slot_count);
      d_hidden.resize(slot_count);
      d_gate.resize(slot_count);
    }
  };

  void forward(In<D, T> x, Out<DOut, T> z, Tape& tape, Scratch& scratch, const Pass& pass) const {
    pass.check_fits(x.count, z.count);
    tape.resize(pass);
    scratch.resize(pass);
    mixture.route(x, tape, pass);
    mixture.run(x, tape.hidden, tape, scratch.mixture, pass);
    const RoutingPlan<T>& plan = tape.plan;
    heads.view().forward(tape.hidden, plan.layout(), scratch.output, tape.head, scratch.heads, pass);
    kernels::combine<T>(pass.exec, scratch.output, plan.slot.data(), plan.choices, plan.gate.data(), z);
    measure_losses<T>(tape.router, plan, tape, pass);
  }

  // With o_s = H_e h_s + c_e:  d_gate_s = <dz_n, o_s>,  d_h_s = g_s H_e^T dz_n,  dH_e += g_s dz_n h_s^T
  void backward(In<D, T> x, const Tape& tape, In<DOut, T> dz, Out<D, T> dx, ExpertHeads& grad,
                Scratch& scratch, const Pass& pass) const {
    scratch.resize(pass);
    const RoutingPlan<T>& plan = tape.plan;
    T* const d_gate = scratch.d_gate.data();
    heads.view().backward(tape.hidden, plan.layout(), tape.head, plan.at_slots(dz), plan.gate.data(),
                          scratch.d_hidden, d_gate, scratch.heads, pass);
    heads.view().backward_weights(tape.hidden, plan.layout(), tape.head, grad.heads.data(), scratch.heads,
                                  pass);
    mixture.run_backward(x, tape, scratch.d_hidden, dx, grad.mixture, scratch.mixture, pass);
    mixture.route_backward(x, tape, d_gate, Sum(dx), grad.mixture, scratch.mixture, pass);
  }

 private:
  static Index slots_in(const Pass& pass) { return max_slots_of<Recipe>(pass); }
};
static_assert(lists_every_field<ExpertHeads<TopKRouter<4, 2>, Expert<4, 8>, 3>>());
static_assert(Layer<ExpertHeads<TopKRouter<4, 2>, Expert<4, 8>, 3>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
