#pragma once
// Rotary position embedding (Su et al. 2021) in the half-split layout of GPT-NeoX and Hugging Face: features
// i and i + d/2 of a head are rotated by the angle position * base^(-2i/d).
#include <moegpt/core/matrix.hpp>

#include <cmath>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// cosine, sine [d/2] of one position.
template <class T>
void rotary_angles(Index position, double base, Index d, T* cosine, T* sine) {
  for (Index i = 0; i < d / 2; ++i) {
    const double angle = static_cast<double>(position) *
                         std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(d));
    cosine[i] = static_cast<T>(std::cos(angle));
    sine[i] = static_cast<T>(std::sin(angle));
  }
}

// Rotates x [d] in place; direction -1 is the inverse rotation, which is backward. Not inlined: a compiler
// selects which of two products it fuses with their sum, and bits must be equal for all callers.
template <class T>
[[gnu::noinline]] void rotate(T* x, const T* cosine, const T* sine, Index d, T direction) {
  for (Index i = 0; i < d / 2; ++i) {
    const T a = x[i], b = x[i + d / 2], s = direction * sine[i];
    x[i] = a * cosine[i] - b * s;
    x[i + d / 2] = b * cosine[i] + a * s;
  }
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
