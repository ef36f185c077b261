#pragma once
// Dropout of one row, with a mask that is a function of a key and the row's index.
#include <moegpt/core/random.hpp>

#include <type_traits>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// x *= mask / (1 - p), for row `row` of the key's stream. Each 64-bit draw decides two features: its low half
// the even one, its high half the odd one, in the order of memory.
template <class T>
[[gnu::noinline]] void drop(T* x, Index n, double p, Key key, Index row) {
  constexpr int D = lanes<std::uint64_t>;
  const auto threshold = static_cast<std::uint32_t>(p * 0x1.0p32);
  const T scale = static_cast<T>(1 / (1 - p));
  Vector<std::uint64_t> counter =
      lane_numbers<std::uint64_t>() + static_cast<std::uint64_t>(row * ((n + 1) / 2));
  for (Index i = 0; i < n; i += 2 * D, counter += D) {
    const Vector<std::uint64_t> bits = key.bits(counter);
    Vector<std::uint32_t> words;
    std::memcpy(&words, &bits, sizeof bits);
    if constexpr (std::is_same_v<T, float>)
      if (i + 2 * D <= n) {
        store(x + i, load(x + i) * (words < threshold ? Vector<T>{} : Vector<T>{} + scale));
        continue;
      }
    for (int l = 0; l < 2 * D && i + l < n; ++l) x[i + l] *= words[l] < threshold ? T(0) : scale;
  }
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
