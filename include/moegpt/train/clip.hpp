#pragma once
// Clipping by the global norm of a gradient (Pascanu et al. 2013).
#include <moegpt/core/exec.hpp>
#include <moegpt/core/fields.hpp>
#include <moegpt/kernels/reduce.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// sqrt of the sum of squares of all trainable weights, in double; pieces are summed in a fixed order.
template <class Tree>
double global_norm(const Tree& gradient, const Exec& exec = {}) {
  double total = 0;
  for_each_weight_of_kind([&](Kind kind, const auto& g) {
    if (kind == Kind::buffer || g.empty()) return;
    constexpr Index piece = 32768, most = 64;
    double part[most];
    for (Index first = 0; first < g.size(); first += piece * most) {
      const Index rest = g.size() - first, pieces = rest < piece * most ? (rest + piece - 1) / piece : most;
      exec.parallel_for(pieces, [&](Index i) {
        const Index begin = first + i * piece, left = g.size() - begin;
        part[i] = kernels::squared_norm(g.data() + begin, left < piece ? left : piece);
      });
      for (Index i = 0; i < pieces; ++i) total += part[i];
    }
  }, gradient);
  return std::sqrt(total);
}

// What to multiply a gradient of this norm with so that its norm is at most `limit`: PyTorch's formula. A limit
// of 0 or less means no clipping. Throws std::runtime_error for a norm that is not finite: such a step would
// spoil the weights and the optimizer's moments for good.
inline double clip_scale(double norm, double limit) {
  if (!std::isfinite(norm))
    throw std::runtime_error("moegpt: the norm of the gradient is " + std::to_string(norm) +
                             ": skip this step, or lower the learning rate");
  return limit > 0 && norm + 1e-6 > limit ? limit / (norm + 1e-6) : 1;
}

}  // namespace moegpt::inline MOEGPT_BUILD
