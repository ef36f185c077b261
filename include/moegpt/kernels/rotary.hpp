#pragma once
// Rotary position embedding (Su et al. 2021) in the half-split layout of GPT-NeoX and Hugging Face: features
// i and i + d/2 of a head turn together by the angle position * base^(-2i/d).
#include <moegpt/core/matrix.hpp>

#include <cmath>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

// cos and sin of one position: [d/2] each.
template <class T>
void rotary_angles(Index position, double base, Index d, T* cosine, T* sine) {
  for (Index i = 0; i < d / 2; ++i) {
    const double angle = static_cast<double>(position) * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(d));
    cosine[i] = static_cast<T>(std::cos(angle));
    sine[i] = static_cast<T>(std::sin(angle));
  }
}

// Turns one head of one token in place; direction -1 turns back, which is the backward pass. Not inlined: a compiler
// chooses which of two products it fuses with their sum, and must choose once for all callers.
template <class T>
[[gnu::noinline]] void rotate(T* x, const T* cosine, const T* sine, Index d, T direction) {
  for (Index i = 0; i < d / 2; ++i) {
    const T a = x[i], b = x[i + d / 2], s = direction * sine[i];
    x[i] = a * cosine[i] - b * s;
    x[i + d / 2] = b * cosine[i] + a * s;
  }
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
