// Tokens of one width do not enter a layer of another.
// expect: the width of these tokens
#include <moegpt/layers/linear.hpp>

void apply(const moegpt::Linear<8, 4>& layer, const moegpt::Pass& pass) {
#ifdef FAULT
  moegpt::Tokens<6, float> x(3);
#else
  moegpt::Tokens<8, float> x(3);
#endif
  moegpt::Tokens<4, float> y(3);
  layer.forward(x, y, pass);
}
