#pragma once
// Vectors of the width this unit was compiled for, by the compilers' vector extension: element-wise + - * work
// as written, and a * b + c becomes one fused operation where the machine has it.
#include <moegpt/core/matrix.hpp>

namespace moegpt::inline MOEGPT_BUILD {

template <class T>
inline constexpr int lanes = MOEGPT_VECTOR_BYTES / static_cast<int>(sizeof(T));

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(MOEGPT_VECTOR_BYTES)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
[[gnu::always_inline]] inline Vector<T> load(const T* p) {
  Vector<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
[[gnu::always_inline]] inline void store(T* p, const Vector<T>& v) {
  std::memcpy(p, &v, sizeof v);
}
template <class T>
[[gnu::always_inline]] inline T sum_lanes(const Vector<T>& v) {
  T s = 0;
  for (int i = 0; i < lanes<T>; ++i) s += v[i];
  return s;
}

}  // namespace moegpt::inline MOEGPT_BUILD
