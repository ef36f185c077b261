#include <moegpt/kernels/cross_entropy.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {
template <class T>
T loss(const T* z, Index vocab, int target) {
  T loss, lse;
  kernels::cross_entropies<T>(Exec{1}, {z, 1, vocab, vocab}, &target, &loss, &lse);
  return loss;
}
// The gradient of `count` columns from `first`.
template <class T>
Buffer<T> gradient(const T* z, Index vocab, int target, T scale, Index first, Index count) {
  Buffer<T> dz(count);
  const T lse = kernels::log_sum_exp(z, vocab);
  kernels::cross_entropies_backward<T>(Exec{1}, {z, 1, vocab, vocab}, &target, &lse, scale, first,
                                       {dz.data(), 1, count, count});
  return dz;
}
}  // namespace

TEMPLATE_TEST_CASE("log-sum-exp agrees with a plain sum in long double at every length", "", float, double) {
  for (Index n = 1; n <= 70; ++n) {
    const auto z = random_numbers<TestType>(n, 7, 3);
    long double total = 0;
    for (const TestType x : z) total += std::exp(static_cast<long double>(x));
    // n + 2 roundings of sums and terms, and one of the result, which may be ten times larger than their
    // logarithm
    const double bound = (static_cast<double>(n) + 12) * std::numeric_limits<TestType>::epsilon();
    CAPTURE(n);
    CHECK(std::abs(static_cast<double>(kernels::log_sum_exp(z.data(), n) - std::log(total))) <= bound);
  }
}

TEST_CASE("cross-entropy is -log softmax of the target, and ln V for equal logits") {
  const double z[3] = {std::log(1.0), std::log(2.0), std::log(5.0)};
  CHECK(loss(z, 3, 1) == Approx(std::log(4.0)).epsilon(1e-15));
  const double equal[65] = {};
  CHECK(loss(equal, 65, 7) == Approx(std::log(65.0)).epsilon(1e-15));
}

TEST_CASE("logits of any size give a finite loss") {
  const float z[3] = {3e38f, -3e38f, 0};
  CHECK(loss(z, 3, 0) == 0);
  const float w[2] = {1e4f, 0};
  CHECK(loss(w, 2, 1) == 1e4f);
}

TEST_CASE("a NaN among the logits is a NaN loss") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), z[2] = {nan, 0}, all[2] = {nan, nan};
  CHECK(std::isnan(loss(z, 2, 1)));
  CHECK(std::isnan(loss(all, 2, 1)));
}

TEST_CASE("a target below zero has no loss and no gradient") {
  const double z[3] = {1, 2, 3};
  CHECK(loss(z, 3, -1) == 0);
  for (const double d : gradient(z, 3, -100, 1.0, 0, 3)) CHECK(d == 0);
  const float huge[2] = {3e38f, 1e30f};
  for (const float d : gradient(huge, 2, -1, 1.0f, 0, 2)) CHECK(d == 0);
}

TEST_CASE("the gradient is scale (softmax - onehot): it agrees with differences and sums to zero") {
  const int V = 9, target = 4;
  auto z = random_numbers<double>(V, 1);
  const auto dz = gradient(z.data(), V, target, 0.5, 0, V);
  double total = 0;
  for (int i = 0; i < V; ++i) {
    const double h = 1e-5, z0 = z[i];  // the difference is off by about h^2 + 1e-16 / h
    z[i] = z0 + h;
    const double above = loss(z.data(), V, target);
    z[i] = z0 - h;
    const double below = loss(z.data(), V, target);
    z[i] = z0;
    CHECK(dz[i] == Approx(0.5 * (above - below) / (2 * h)).margin(1e-9));
    total += dz[i];
  }
  CHECK(total == Approx(0).margin(1e-15));
}

TEST_CASE(
    "some columns of the gradient are those of the whole gradient, and only one range holds the target") {
  const Index V = 50;
  const auto z = random_numbers<double>(V, 2);
  for (const int target : {0, 16, 17, 49}) {
    const auto whole = gradient(z.data(), V, target, 0.25, 0, V);
    for (const Rows part : {Rows{0, 17}, Rows{17, 16}, Rows{33, 17}}) {
      const auto columns = gradient(z.data(), V, target, 0.25, part.first, part.count);
      CHECK(same_bits(columns.data(), whole.data() + part.first, part.count));
    }
  }
}

namespace {
template <class T>
kernels::Divergence<T> divergence(const T* z, const T* teacher, Index vocab, int target, T temperature) {
  kernels::Divergence<T> found{};
  kernels::divergences<T>(Exec{1}, {z, 1, vocab, vocab}, {teacher, 1, vocab, vocab}, &target, temperature,
                          &found);
  return found;
}
}  // namespace

TEMPLATE_TEST_CASE("the divergence agrees with plain sums in long double at every length", "", float,
                   double) {
  for (Index n = 1; n <= 40; ++n) {
    const auto z = random_numbers<TestType>(n, 7, 2), v = random_numbers<TestType>(n, 8, 2);
    const long double t = 1.7L;
    long double sum_z = 0, sum_v = 0, expected = 0;
    for (Index i = 0; i < n; ++i) sum_z += std::exp(z[i] / t), sum_v += std::exp(v[i] / t);
    for (Index i = 0; i < n; ++i) {
      const long double log_p = v[i] / t - std::log(sum_v), log_q = z[i] / t - std::log(sum_z);
      expected += std::exp(log_p) * (log_p - log_q);
    }
    CAPTURE(n);
    // some roundings of logarithms below ten, weighted by probabilities
    const double bound = 60 * std::numeric_limits<TestType>::epsilon();
    CHECK(std::abs(static_cast<double>(divergence(z.data(), v.data(), n, 0, static_cast<TestType>(t)).value -
                                       expected)) <= bound);
  }
}

TEST_CASE("a teacher may rule out vocabulary entries, and a NaN of either is a NaN") {
  const float no = -std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float z[3] = {1, 1, 5}, v[3] = {2, 2, no}, bad[3] = {0, nan, 0}, none[3] = {0, 0, no};
  // p = (1/2, 1/2, 0)
  CHECK(divergence(z, v, 3, 0, 1.0f).value ==
        Approx(std::log(0.5) - 1 + std::log(2 * std::exp(1.0) + std::exp(5.0))));
  CHECK(divergence(none, v, 3, 0, 2.0f).value == Approx(0).margin(1e-6));
  CHECK(std::isnan(divergence(bad, v, 3, 0, 1.0f).value));
  CHECK(std::isnan(divergence(z, bad, 3, 0, 1.0f).value));
  CHECK(divergence(bad, v, 3, -1, 1.0f).value == 0);
}

TEST_CASE("some columns of the gradient of the divergence are added, those of the whole gradient") {
  const Index V = 50;
  const auto z = random_numbers<double>(V, 2), v = random_numbers<double>(V, 3);
  const auto found = divergence(z.data(), v.data(), V, 0, 2.0);
  const auto gradient_of = [&](Rows part, double start) {
    const int target = 0;
    Buffer<double> dz(part.count);
    dz.fill(start);
    kernels::divergences_backward<double>(Exec{1}, {z.data(), 1, V, V}, {v.data(), 1, V, V}, &target, 2.0,
                                          &found, 0.25, part.first, {dz.data(), 1, part.count, part.count});
    return dz;
  };
  const auto whole = gradient_of({0, V}, 0);
  for (const Rows part : {Rows{0, 17}, Rows{17, 16}, Rows{33, 17}}) {
    const auto columns = gradient_of(part, 0), added = gradient_of(part, 1);
    CHECK(same_bits(columns.data(), whole.data() + part.first, part.count));
    for (Index i = 0; i < part.count; ++i) CHECK(added[i] - 1 == Approx(columns[i]).margin(1e-15));
  }
}
