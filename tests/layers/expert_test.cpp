#include <moegpt/layers/expert.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

// Forward and backward of an expert on all rows of x, with the given grad and dx.
template <class X>
struct Run {
  static constexpr int D = X::dim;
  Tokens<D, double> x, dy, y, dx;
  Buffer<double> gate, d_gate;
  typename X::Tape tape;
  typename X::Scratch scratch;
  explicit Run(Index tokens)
      : x(random_tokens<D, double>(tokens, 1)),
        dy(random_tokens<D, double>(tokens, 2)),
        y(tokens),
        dx(tokens),
        gate(tokens),
        d_gate(tokens) {
    gate.fill(0.75);
    tape.resize(tokens);
    scratch.resize(tokens);
  }
  void forward(const X& expert, Rows rows) {
    expert.forward(x.rows(rows), y.rows(rows), tape, scratch, rows);
  }
  void backward(const X& expert, X& grad, Rows rows, bool want_dx = true) {
    expert.backward(x.rows(rows), tape, std::as_const(dy).rows(rows), gate.data() + rows.first,
                    want_dx ? dx.rows(rows) : Out<D, double>{}, d_gate.data() + rows.first, scratch, rows);
    for (Index part = 0; part < X::weight_parts; ++part)
      expert.backward_weights(part, x.rows(rows), tape, std::as_const(dy).rows(rows), grad, scratch, rows);
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
  SECTION("gelu gate and biases") {
    gradcheck_three_seeds<GatedExpert<6, 5, Activation::gelu, double, true>>();
  }
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

TEST_CASE("gradients of an expert that are not required are skipped, and the others keep their bits") {
  SECTION("expert") { check_freezing<Expert<6, 5, Activation::gelu, double>>(); }
  SECTION("gated expert") { check_freezing<GatedExpert<6, 5, Activation::silu, double>>(); }
}

TEST_CASE(
    "an expert works on rows of shared buffers: a token's bits do not depend on the partition (invariant "
    "6)") {
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
  CHECK(same_bits(whole.d_gate.data(), cut.d_gate.data(), 23));
}

TEST_CASE("the gradient of a gate is <dy, y>, without a stored y") {
  const auto examine = [](auto expert) {
    draw_weights(expert, 5);
    decltype(expert) grad;
    Run<decltype(expert)> run(300);
    run.forward(expert, {0, 300});
    run.backward(expert, grad, {0, 300});
    for (Index s = 0; s < 300; ++s)
      CHECK(run.d_gate[s] == Approx(kernels::dot(run.dy[s], run.y[s], 6)).epsilon(1e-12).margin(1e-13));
  };
  examine(Expert<6, 70, Activation::gelu, double>{});
  examine(Expert<6, 70, Activation::relu, double, false>{});
  examine(GatedExpert<6, 70, Activation::silu, double, true>{});
}

TEST_CASE("an expert has the same result for gathered tokens and copies") {
  using X = Expert<6, 37, Activation::gelu, double>;
  X expert, grad, grad_copied;
  draw_weights(expert, 6);
  for (const Index count : {5, 40}) {
    Run<X> copied(count), run(count);
    const auto all = random_tokens<6, double>(50, 7);
    std::vector<Index> number;
    for (Index s = 0; s < count; ++s) {
      number.push_back(s * 7 % 50);
      for (int i = 0; i < 6; ++i) copied.x[s][i] = all[number.back()][i];
    }
    copied.forward(expert, {0, count});
    copied.backward(expert, grad_copied, {0, count});
    const Gathered<6, double> x(all, number.data(), count);
    expert.forward(x, run.y, run.tape, run.scratch, {0, count});
    expert.backward(x, run.tape, std::as_const(copied.dy), run.gate.data(), run.dx, nullptr, run.scratch,
                    {0, count});
    for (Index part = 0; part < X::weight_parts; ++part)
      expert.backward_weights(part, x, run.tape, std::as_const(copied.dy), grad, run.scratch, {0, count});
    CHECK(same_bits(run.y, copied.y));
    CHECK(same_bits(run.dx, copied.dx));
    CHECK(same_weights(grad, grad_copied));
  }
}
