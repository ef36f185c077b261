#include <moegpt/layers/expert.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

// Runs an expert forward and backward on all of x; grad and dx as given.
template <class X>
struct Run {
  static constexpr int D = X::dim;
  Tokens<D, double> x, dy, y, dx;
  typename X::Tape tape;
  typename X::Scratch scratch;
  explicit Run(Index tokens)
      : x(random_tokens<D, double>(tokens, 1)), dy(random_tokens<D, double>(tokens, 2)), y(tokens), dx(tokens) {
    tape.resize(tokens);
    scratch.resize(tokens);
  }
  void forward(const X& expert, Rows rows) { expert.forward(x.rows(rows), y.rows(rows), tape, rows); }
  void backward(const X& expert, X& grad, Rows rows, bool want_dx = true) {
    expert.backward(std::as_const(x).rows(rows), tape, std::as_const(dy).rows(rows),
                    want_dx ? dx.rows(rows) : Out<D, double>{}, scratch, rows);
    expert.backward_weights(std::as_const(x).rows(rows), tape, std::as_const(dy).rows(rows), grad, scratch, rows);
  }
};

template <class X>
void check_freezing() {
  X expert, grad, frozen, no_dx;
  draw_weights(expert, 3);
  for_each_weight([](auto& w) { w.release(); }, frozen);
  Run<X> run(7);
  run.forward(expert, {0, 7});
  run.backward(expert, grad, {0, 7});
  const auto dx = run.dx;
  run.backward(expert, frozen, {0, 7});
  CHECK(same_bits(run.dx, dx));
  CHECK(count_weights(frozen) == 0);
  run.backward(expert, no_dx, {0, 7}, false);
  CHECK(same_weights(grad, no_dx));
}

}  // namespace

TEST_CASE("the gradients of an expert agree with differences for every activation") {
  SECTION("gelu") { gradcheck_three_seeds<Expert<6, 5, Activation::gelu, double>>(); }
  SECTION("gelu_erf") { gradcheck_three_seeds<Expert<6, 5, Activation::gelu_erf, double>>(); }
  SECTION("relu") { gradcheck_three_seeds<Expert<6, 5, Activation::relu, double>>(); }
  SECTION("silu") { gradcheck_three_seeds<Expert<6, 5, Activation::silu, double>>(); }
  SECTION("tanh, without biases") { gradcheck_three_seeds<Expert<6, 5, Activation::tanh, double, false>>(); }
}

TEST_CASE("the gradients of a gated expert agree with differences, with biases and without") {
  SECTION("SwiGLU") { gradcheck_three_seeds<GatedExpert<6, 5, Activation::silu, double>>(); }
  SECTION("gelu gate and biases") { gradcheck_three_seeds<GatedExpert<6, 5, Activation::gelu, double, true>>(); }
}

TEST_CASE("an expert is down(act(up x)), and a gated one down(act(gate x) up x)") {
  Expert<1, 2, Activation::relu, double> expert;
  expert.up.weight.eigen() << 1, -1;
  expert.up.bias.eigen() << 0, 5;
  expert.down.weight.eigen() << 10, 100;
  expert.down.bias.eigen() << 7;
  Run<decltype(expert)> run(2);
  run.x.eigen() << 2, -3;
  run.forward(expert, {0, 2});
  CHECK(run.y[0][0] == 10 * 2 + 100 * 3 + 7);
  CHECK(run.y[1][0] == 100 * 8 + 7);
  GatedExpert<1, 1, Activation::relu, double> gated;
  gated.gate.weight[0] = 2;
  gated.up.weight[0] = -3;
  gated.down.weight[0] = 5;
  Run<decltype(gated)> gated_run(2);
  gated_run.x.eigen() << 2, -3;
  gated_run.forward(gated, {0, 2});
  CHECK(gated_run.y[0][0] == 5 * (4 * -6));
  CHECK(gated_run.y[1][0] == 0);
}

TEST_CASE("gradients of an expert that are not wanted are skipped, and the others keep their bits") {
  SECTION("expert") { check_freezing<Expert<6, 5, Activation::gelu, double>>(); }
  SECTION("gated expert") { check_freezing<GatedExpert<6, 5, Activation::silu, double>>(); }
}

TEST_CASE("an expert works on rows of shared buffers: a token's bits do not depend on the cut (law 6)") {
  using X = GatedExpert<6, 37, Activation::silu, double>;
  X expert, grad;
  draw_weights(expert, 4);
  Run<X> whole(23), cut(23);
  whole.forward(expert, {0, 23});
  whole.backward(expert, grad, {0, 23});
  for (const Rows rows : {Rows{0, 1}, Rows{1, 15}, Rows{16, 7}}) {
    cut.forward(expert, rows);
    cut.backward(expert, grad, rows);
  }
  CHECK(same_bits(whole.y, cut.y));
  CHECK(same_bits(whole.dx, cut.dx));
}
