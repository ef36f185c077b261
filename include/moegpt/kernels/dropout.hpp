#pragma once
// Dropout of one row, drawn from a counter.
#include <moegpt/core/random.hpp>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

// x *= mask / (1 - p) for one row; `row` numbers it within the key's stream.
template <class T>
void drop(T* x, Index n, double p, Key key, Index row) {
  const auto threshold = static_cast<std::uint64_t>(p * 0x1.0p32);
  const T scale = static_cast<T>(1 / (1 - p));
  const auto first = static_cast<std::uint64_t>(row) * static_cast<std::uint64_t>((n + 1) / 2);
  for (Index i = 0; i < n; i += 2) {   // one draw decides two features
    const std::uint64_t b = key.bits(first + static_cast<std::uint64_t>(i / 2));
    x[i] *= (b >> 32) < threshold ? T(0) : scale;
    if (i + 1 < n) x[i + 1] *= (b & 0xffffffffu) < threshold ? T(0) : scale;
  }
}

}  // namespace kernels

}  // namespace moegpt::inline MOEGPT_BUILD
