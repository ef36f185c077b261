// Products widen elements of panels to float alone.
// expect: write Stored<float>, Stored<float, BF16> or Stored<float, INT8>
#include <moegpt/layers/linear.hpp>

#ifdef FAULT
using Number = moegpt::Stored<double, moegpt::BF16>;
#else
using Number = moegpt::Stored<float, moegpt::BF16>;
#endif
moegpt::Linear<4, 5, Number> layer;
