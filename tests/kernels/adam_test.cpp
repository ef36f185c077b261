#include <moegpt/kernels/adam.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

// Kingma and Ba's Algorithm 1 with PyTorch's two kinds of decay, one number at a time.
struct Reference {
  double rate = 0.01, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-3, decay = 0, l2 = 0, clip = 1;
  double w, m = 0, v = 0;
  void step(int t, double g) {
    g = clip * g + l2 * w;
    w -= rate * decay * w;
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    const double m_hat = m / (1 - std::pow(beta1, t)), v_hat = v / (1 - std::pow(beta2, t));
    w -= rate * m_hat / (std::sqrt(v_hat) + epsilon);
  }
};
template <class T>
kernels::AdamStep<T> step_of(const Reference& r, int t) {
  return {.gradient_scale = T(r.clip),
          .beta1 = T(r.beta1),
          .beta2 = T(r.beta2),
          .rate = T(r.rate / (1 - std::pow(r.beta1, t))),
          .root_correction = T(1 / std::sqrt(1 - std::pow(r.beta2, t))),
          .epsilon = T(r.epsilon),
          .shrink = T(1 - r.rate * r.decay),
          .l2 = T(r.l2)};
}

}  // namespace

TEMPLATE_TEST_CASE("ten steps follow the published formulas, with decoupled decay, L2 and clipping", "",
                   float, double) {
  using T = TestType;
  const Index n = 23;
  for (const auto& [decay, l2, clip] :
       {std::tuple{0.0, 0.0, 1.0}, {0.3, 0.0, 1.0}, {0.0, 0.2, 1.0}, {0.1, 0.1, 0.25}}) {
    auto w = random_numbers<T>(n, 1);
    Buffer<T> m(n), v(n);
    std::vector<Reference> reference(static_cast<std::size_t>(n));
    for (Index i = 0; i < n; ++i) {
      reference[static_cast<std::size_t>(i)].w = w[i];
      reference[static_cast<std::size_t>(i)].decay = decay;
      reference[static_cast<std::size_t>(i)].l2 = l2;
      reference[static_cast<std::size_t>(i)].clip = clip;
    }
    for (int t = 1; t <= 10; ++t) {
      const auto g = random_numbers<T>(n, static_cast<std::uint64_t>(t + 1));
      kernels::adam(step_of<T>(reference[0], t), g.data(), w.data(), m.data(), v.data(), n);
      for (Index i = 0; i < n; ++i) reference[static_cast<std::size_t>(i)].step(t, g[i]);
    }
    for (Index i = 0; i < n; ++i) {  // each of ten steps rounds a few times
      const Reference& r = reference[static_cast<std::size_t>(i)];
      CHECK(std::abs(w[i] - r.w) <= 100 * std::numeric_limits<T>::epsilon() * (1 + std::abs(r.w)));
      CHECK(std::abs(m[i] - r.m) <= 100 * std::numeric_limits<T>::epsilon());
      CHECK(std::abs(v[i] - r.v) <= 100 * std::numeric_limits<T>::epsilon() * (1 + r.v));
    }
  }
}

TEST_CASE("the first step moves every weight by the learning rate against the sign of its gradient") {
  const double g[3] = {1e-4, -2, 300};
  double w[3] = {}, m[3] = {}, v[3] = {};
  Reference r;
  r.epsilon = 0;
  kernels::adam(step_of<double>(r, 1), g, w, m, v, 3);
  CHECK(w[0] == Approx(-0.01).epsilon(1e-12));
  CHECK(w[1] == Approx(0.01).epsilon(1e-12));
  CHECK(w[2] == Approx(-0.01).epsilon(1e-12));
}

TEST_CASE("a zero gradient changes no weight without momentum, not even with epsilon 1e-8") {
  const float g[2] = {};
  float w[2] = {1, -3}, m[2] = {}, v[2] = {};
  Reference r;
  r.epsilon = 1e-8;
  kernels::adam(step_of<float>(r, 1), g, w, m, v, 2);
  CHECK(w[0] == 1);
  CHECK(w[1] == -3);
}

TEMPLATE_TEST_CASE("an element's step has the same bits at any index and for any number of elements", "",
                   float, double) {
  using T = TestType;
  const Index n = 3 * lanes<T> + 1;
  const auto g = random_numbers<T>(n, 1), start = random_numbers<T>(n, 2);
  Reference r;
  r.decay = 0.1, r.l2 = 0.2, r.clip = 0.3;
  auto whole = start;
  Buffer<T> whole_m(n), whole_v(n);
  kernels::adam(step_of<T>(r, 1), g.data(), whole.data(), whole_m.data(), whole_v.data(), n);
  for (Index i = 0; i < n; ++i) {
    T w = start[i], m = 0, v = 0;
    kernels::adam(step_of<T>(r, 1), &g[i], &w, &m, &v, 1);
    CHECK(w == whole[i]);
    CHECK(m == whole_m[i]);
    CHECK(v == whole_v[i]);
  }
}
