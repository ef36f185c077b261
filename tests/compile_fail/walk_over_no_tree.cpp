// What has no fields() has no weights to set to zero.
// expect: a walk over weights takes a tree
#include <moegpt/layers/linear.hpp>

#ifdef FAULT
using Gradient = float;
#else
using Gradient = moegpt::Linear<4, 5>;
#endif
void clear(Gradient& gradient) { moegpt::set_zero(gradient); }
