#include <moegpt/layers/linear_expert.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEST_CASE(
    "the gradients of an expert of one linear map agree with differences, narrower, wider and without bias") {
  SECTION("as wide as its input") { gradcheck_three_seeds<LinearExpert<6, 6, double>>(); }
  SECTION("narrower") { gradcheck_three_seeds<LinearExpert<6, 3, double>>(); }
  SECTION("wider, without bias") { gradcheck_three_seeds<LinearExpert<4, 9, double, false>>(); }
}

TEST_CASE("a linear expert is the linear layer, bit for bit, and its weights are a Linear's") {
  LinearExpert<6, 5> expert;
  draw_weights(expert, 1);
  const auto x = random_tokens<6, float>(7, 2);
  Tokens<5, float> y(7), expected(7);
  LinearExpert<6, 5>::Tape tape;
  LinearExpert<6, 5>::Scratch scratch;
  scratch.resize(7);
  expert.forward(x, y, tape, scratch, {0, 7});
  expert.map.forward(x, expected, {.shape = {1, 7}});
  CHECK(same_bits(y, expected));
  std::string paths;
  for_each_named_weight([&](const std::string& path, Kind, auto&) { paths += path + " "; }, expert);
  CHECK(paths == "weight bias ");
}

TEST_CASE("a frozen linear expert does not change dx and the gradient of its gate") {
  using X = LinearExpert<6, 5, double>;
  X expert, grad, frozen;
  draw_weights(expert, 3);
  for_each_weight([](auto& w) { w.release(); }, frozen);
  const auto x = random_tokens<6, double>(7, 4);
  const auto dy = random_tokens<5, double>(7, 5);
  X::Tape tape;
  X::Scratch scratch;
  scratch.resize(7);
  Tokens<6, double> dx(7), dx_frozen(7);
  Buffer<double> d_gate(7), d_gate_frozen(7);
  expert.backward(x, tape, dy, nullptr, dx, d_gate.data(), scratch, {0, 7});
  expert.backward_weights(0, x, tape, dy, grad, scratch, {0, 7});
  expert.backward(x, tape, dy, nullptr, dx_frozen, d_gate_frozen.data(), scratch, {0, 7});
  expert.backward_weights(0, x, tape, dy, frozen, scratch, {0, 7});
  CHECK(same_bits(dx, dx_frozen));
  CHECK(same_bits(d_gate, d_gate_frozen));
  CHECK(count_weights(frozen) == 0);
  CHECK(grad.map.bias[0] != 0);
}

TEMPLATE_TEST_CASE("an expert computes the gradient of a gate, with the same bits, where dx is not required",
                   "", (LinearExpert<6, 6, double>), (Expert<6, 9, Activation::gelu, double>),
                   (GatedExpert<6, 9, Activation::silu, double>)) {
  TestType expert;
  draw_weights(expert, 6);
  const auto x = random_tokens<6, double>(7, 7);
  const auto dy = random_tokens<6, double>(7, 8);
  Tokens<6, double> y(7), dx(7);
  typename TestType::Tape tape;
  typename TestType::Scratch scratch;
  tape.resize(7);
  scratch.resize(7);
  Buffer<double> d_gate(7), alone(7);
  expert.forward(x, y, tape, scratch, {0, 7});
  expert.backward(x, tape, dy, nullptr, dx, d_gate.data(), scratch, {0, 7});
  expert.backward(x, tape, dy, nullptr, {}, alone.data(), scratch, {0, 7});
  CHECK(same_bits(d_gate, alone));
}
