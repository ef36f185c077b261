#include <moegpt/kernels/cross_entropy.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {
template <class T>
T loss(const T* z, Index vocab, int target) {
  Buffer<T> scratch(vocab);
  return kernels::cross_entropy(z, vocab, target, scratch.data());
}
}  // namespace

TEST_CASE("cross-entropy is -log softmax(z)[target], and ln V for equal logits") {
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
  double dz[3] = {5, 5, 5};
  CHECK(loss(z, 3, -1) == 0);
  kernels::cross_entropy_backward(z, 3, -100, 1.0, dz);
  for (const double d : dz) CHECK(d == 0);
}

TEST_CASE("the gradient is scale (softmax - onehot): it agrees with differences and sums to zero") {
  const int V = 9, target = 4;
  auto z = random_numbers<double>(V, 1);
  Buffer<double> dz(V);
  kernels::cross_entropy_backward(z.data(), V, target, 0.5, dz.data());
  double total = 0;
  for (int i = 0; i < V; ++i) {
    const double h = 1e-5, z0 = z[i];   // the difference is off by about h^2 + 1e-16 / h
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
