// A weight and its counterpart in another tree have one shape, so the trees have one type.
// expect: a walk over several trees takes trees of one type
#include <moegpt/layers/linear.hpp>

using Model = moegpt::Linear<4, 5>;
#ifdef FAULT
using Gradient = moegpt::Linear<4, 6>;
#else
using Gradient = moegpt::Linear<4, 5>;
#endif
void step(Model& model, const Gradient& gradient) {
  moegpt::for_each_weight([](auto& w, const auto& g) { w[0] -= g[0]; }, model, gradient);
}
