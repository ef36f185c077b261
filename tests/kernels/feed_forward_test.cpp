#include <moegpt/kernels/feed_forward.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {
constexpr int D = 5, F = 70;
constexpr Index tokens = 300;  // more than one chunk
}  // namespace

TEST_CASE("hidden is the activation of the product, and hidden_gated the product times it") {
  const auto x = random_tokens<D, double>(tokens, 1);
  const auto w = random_tokens<D, double>(F, 2);
  const auto gate = random_tokens<F, double>(tokens, 3);
  const auto b = random_numbers<double>(F, 4);
  Tokens<F, double> pre(tokens), expected(tokens), h(tokens);
  kernels::affine<double>({}, x.view(), w.view(), b.data(), expected);
  kernels::hidden<double>({}, Activation::gelu, x.view(), w.view(), b.data(), pre, h);
  CHECK(same_bits(pre, expected));
  kernels::activate(Activation::gelu, pre[0], expected[0], tokens * F);
  CHECK(same_bits(h, expected));
  kernels::hidden_gated<double>({}, Activation::silu, x.view(), w.view(), b.data(), gate.view(), pre, h);
  kernels::activate_gated(Activation::silu, gate[0], pre[0], expected[0], tokens * F);
  CHECK(same_bits(h, expected));
}

TEST_CASE("hidden_backward is the product followed by the activation's backward, times the gate") {
  const auto dy = random_tokens<D, double>(tokens, 5);
  const auto w = random_tokens<F, double>(D, 6);
  const auto pre = random_tokens<F, double>(tokens, 7), up = random_tokens<F, double>(tokens, 8);
  const auto b = random_numbers<double>(D, 9), g = random_numbers<double>(tokens, 10);
  Tokens<F, double> dh(tokens), h(tokens), d(tokens), d_up(tokens), expected(tokens), expected_up(tokens),
      act(tokens);
  std::vector<double> d_gate(tokens);
  kernels::affine_backward<double>({}, dy.view(), w.view(), dh, false);
  const auto gate_gradient = [&](Index s) {
    return kernels::dot(dh[s], act[s], F) + kernels::dot(dy[s], b.data(), D);
  };

  kernels::activate(Activation::gelu, pre[0], act[0], tokens * F);
  kernels::activate_backward(Activation::gelu, pre[0], dh[0], expected[0], tokens * F);
  kernels::hidden_backward<double>(Activation::gelu, dy.view(), w.view(), b.data(), g.data(), pre.view(), h,
                                   d, d_gate.data());
  CHECK(same_bits(h, act));
  for (Index s = 0; s < tokens; ++s) {
    CHECK(d_gate[static_cast<std::size_t>(s)] == Approx(gate_gradient(s)).epsilon(1e-12).margin(1e-12));
    for (int i = 0; i < F; ++i) CHECK(d[s][i] == Approx(g[s] * expected[s][i]).epsilon(1e-13).margin(1e-15));
  }

  kernels::activate_gated(Activation::silu, pre[0], up[0], act[0], tokens * F);
  kernels::activate_gated_backward(Activation::silu, pre[0], up[0], dh[0], expected[0], expected_up[0],
                                   tokens * F);
  kernels::hidden_gated_backward<double>(Activation::silu, dy.view(), w.view(), b.data(), g.data(),
                                         pre.view(), up.view(), h, d, d_up, d_gate.data());
  CHECK(same_bits(h, act));
  for (Index s = 0; s < tokens; ++s) {
    CHECK(d_gate[static_cast<std::size_t>(s)] == Approx(gate_gradient(s)).epsilon(1e-12).margin(1e-12));
    for (int i = 0; i < F; ++i) {
      CHECK(d[s][i] == Approx(g[s] * expected[s][i]).epsilon(1e-13).margin(1e-15));
      CHECK(d_up[s][i] == Approx(g[s] * expected_up[s][i]).epsilon(1e-13).margin(1e-15));
    }
  }
  kernels::hidden_backward<double>(Activation::gelu, dy.view(), w.view(), nullptr, nullptr, pre.view(), h, d,
                                   nullptr);
  kernels::activate_backward(Activation::gelu, pre[0], dh[0], expected[0], tokens * F);
  CHECK(same_bits(d, expected));  // no gate, none wanted
}
