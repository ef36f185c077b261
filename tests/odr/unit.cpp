// Compiled several times, each time with other flags and another name for UNIT.
#include "report.hpp"

#include <moegpt/moegpt.hpp>
#if __has_include(<moegpt/io.hpp>)
#include <moegpt/io.hpp>
#endif
#if __has_include(<moegpt/testing/gradcheck.hpp>)
#include <moegpt/testing/gradcheck.hpp>
#endif

#include <algorithm>

Report UNIT() {
  using namespace moegpt;
  Report report{build_info().simd, build_info().openmp, 0, {}};

  // y = W x for small integers, which every instruction set multiplies without rounding.
  constexpr int in = 24, out = 40;
  const Index tokens = 37;
  Linear<in, out> linear;
  for (Index i = 0; i < linear.weight.size(); ++i) linear.weight[i] = static_cast<float>(i % 7 - 3);
  Tokens<in, float> x(tokens);
  Tokens<out, float> y(tokens);
  for (Index i = 0; i < tokens * in; ++i) x[0][i] = static_cast<float>(i % 5 - 2);
  const Pass pass{.shape = {.batch = 1, .length = tokens}, .exec = {.threads = 2}};
  linear.forward(x, y, pass);
  report.product.assign(y[0], y[0] + tokens * out);

  std::vector<int> worker_of(64);
  pass.exec.parallel_for_worker(64, [&](Index task, int worker) { worker_of[task] = worker; });
  report.most_workers_seen = 1 + *std::max_element(worker_of.begin(), worker_of.end());
  return report;
}
