// The steps of an MoE layer as separate calls: for a loss on expert outputs, and for expert parallelism.
#include <moegpt/moe/moe_layer.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"
#include "support/routed_pass.hpp"

using namespace moegpt;

namespace {

using Small = Expert<6, 5, Activation::gelu, double>;
using Mixture = MoELayer<TopKRouter<5, 2>, Small>;

// y_n = (y_n of the MoE layer, p_n), with p_n = sum over slots of |output_s|^2 / 2, a loss on expert outputs.
struct Penalised {
  using Scalar = double;
  static constexpr int dim_in = 6, dim_out = 7;
  static constexpr std::string_view name = "moe";

  Mixture mixture;

  static constexpr auto fields() { return Fields{Field{"", &Penalised::mixture}}; }
  struct Tape : Mixture::Tape {
    Tokens<6, double> output;  // [slots]
    void resize(const Pass& pass) {
      Mixture::Tape::resize(pass);
      output.resize(2 * pass.tokens());
    }
  };
  struct Scratch {
    Mixture::Scratch mixture;
    Tokens<6, double> mixed, d_mixed;  // [tokens]
    Tokens<6, double> d_output;        // [slots]
    Buffer<double> d_gate;
    void resize(const Pass& pass) {
      mixture.resize(pass);
      for (auto* t : {&mixed, &d_mixed}) t->resize(pass.tokens());
      d_output.resize(2 * pass.tokens());
      d_gate.resize(2 * pass.tokens());
    }
  };

  void forward(In<6, double> x, Out<7, double> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    tape.resize(pass);
    scratch.resize(pass);
    mixture.route(x, tape, pass);
    mixture.run(x, tape.output, tape, scratch.mixture, pass);
    mixture.combine(tape.plan, tape.output, scratch.mixed, pass);
    measure_losses<double>(tape.router, tape.plan, tape, pass);
    for (Index n = 0; n < x.count; ++n) std::copy_n(scratch.mixed[n], 6, y[n]), y[n][6] = 0;
    for (Index s = 0; s < tape.plan.slot_count(); ++s)
      y[tape.plan.token[s]][6] += kernels::squared_norm(tape.output[s], 6) / 2;
  }
  void backward(In<6, double> x, const Tape& tape, In<7, double> dy, Out<6, double> dx, Penalised& grad,
                Scratch& scratch, const Pass& pass) const {
    scratch.resize(pass);
    for (Index n = 0; n < x.count; ++n) std::copy_n(dy[n], 6, scratch.d_mixed[n]);
    const Out<6, double> d_output = scratch.d_output;
    mixture.combine_backward(tape.plan, tape.output, scratch.d_mixed, d_output, scratch.d_gate.data(), pass);
    for (Index s = 0; s < tape.plan.slot_count(); ++s)
      kernels::axpy(6, dy[tape.plan.token[s]][6], tape.output[s], d_output[s]);
    mixture.run_backward(x, tape, d_output, dx, grad.mixture, scratch.mixture, pass);
    mixture.route_backward(x, tape, scratch.d_gate.data(), Sum(dx), grad.mixture, scratch.mixture, pass);
  }
};
static_assert(Layer<Penalised>);

}  // namespace

TEST_CASE("a loss on expert outputs has gradients that agree with differences, with all options") {
  const Index lengths[2] = {5, 3};
  GradcheckOptions options;
  SECTION("nothing") {}
  SECTION("dropout and losses") {
    options.pass.dropout = 0.3;
    options.pass.key = Key{3};
    options.routing.objective = {.balance = 0.5, .z = 0.3, .importance = 0.4};
  }
  SECTION("capacity and padding") {
    options.pass.options.capacity_factor = 0.8;
    options.pass.lengths = lengths;
  }
  gradcheck_three_seeds<Penalised>(options);
}

TEST_CASE("without an additional loss the backwards of the three steps are the layer's backward") {
  Penalised layer;
  draw_weights(layer, 1);
  const RoutedPass pass({.shape = {1, 9}, .dropout = 0.3, .key = Key{2}}, {.objective = {.balance = 0.1}});
  const auto x = random_tokens<6, double>(9, 3), dy = random_tokens<6, double>(9, 4);
  Tokens<7, double> y(9), padded(9);
  for (Index n = 0; n < 9; ++n) std::copy_n(dy[n], 6, padded[n]);
  Tokens<6, double> whole_y(9), dx(9), whole_dx(9);
  Penalised::Tape tape;
  Penalised::Scratch scratch;
  Penalised grad;
  Mixture whole_grad;
  layer.forward(x, y, tape, scratch, pass);
  layer.backward(x, tape, padded, dx, grad, scratch, pass);
  layer.mixture.forward(x, whole_y, tape, scratch.mixture, pass);
  layer.mixture.backward(x, tape, dy, whole_dx, whole_grad, scratch.mixture, pass);
  for (Index n = 0; n < 9; ++n) CHECK(same_bits(y[n], whole_y[n], 6));
  CHECK(distance(dx, whole_dx) < 1e-14);  // the gate multiplies before or after the expert's backward
  for_each_weight([](const auto& a, const auto& b) { CHECK(distance(a.data(), b.data(), a.size()) < 1e-14); },
                  grad.mixture, whole_grad);
}

TEST_CASE("two ranks with some experts each, between route and combine, give the bits of one layer") {
  Mixture layer;
  draw_weights(layer, 5);
  const Pass pass{.shape = {1, 40}, .dropout = 0.3, .key = Key{6}};
  const auto x = random_tokens<6, double>(40, 7);
  Tokens<6, double> y(40), ranked(40), output(80);
  Mixture::Tape tape, whole;
  Mixture::Scratch scratch;
  layer.forward(x, y, whole, scratch, pass);

  layer.route(x, tape, pass);
  const RoutingPlan<double>& plan = tape.plan;
  for (const auto& [first, count] : {std::pair{0, 2}, std::pair{2, 3}}) {
    const Rows slots{plan.offset[first], plan.offset[first + count] - plan.offset[first]};
    Buffer<Index> offset(count + 1);
    for (int e = 0; e <= count; ++e) offset[e] = plan.offset[first + e] - slots.first;
    const ExpertsView<Small> rank{layer.experts.data() + first, count, first};
    ExpertsView<Small>::Tape rank_tape;
    ExpertsView<Small>::Scratch rank_scratch;
    rank_tape.resize(slots.count);
    rank_scratch.resize(count, slots.count);
    rank.forward(plan.at_slots(x.view()).rows(slots),
                 {offset.data(), plan.token.data() + slots.first, plan.choice.data() + slots.first, 2},
                 output.rows(slots), rank_tape, rank_scratch, pass, expert_dropout(pass.dropout, pass));
  }
  layer.combine(plan, output, ranked, pass);
  CHECK(same_bits(ranked, y));
}
