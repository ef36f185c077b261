#pragma once
// Indices of the k largest elements of a row, in descending order of value, equal values in order of index.
// Indices are valid and distinct even if there are NaNs.
#include <moegpt/core/matrix.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// Insertion into a sorted list of k, in one pass.
template <class T>
void top_k(const T* x, int n, int k, int* index) {
  T last{};  // x[index[k - 1]]
  for (int i = 0; i < n; ++i) {
    if (i >= k && !(x[i] > last)) continue;
    int j = i < k ? i : k - 1;
    for (; j > 0 && x[i] > x[index[j - 1]]; --j) index[j] = index[j - 1];
    index[j] = i;
    if (i >= k - 1) last = x[index[k - 1]];
  }
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
