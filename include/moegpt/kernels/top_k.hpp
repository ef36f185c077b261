#pragma once
// The k largest of a row, largest first; equal values in the order of their index. Every returned index is
// valid and different even if there are NaNs. The first `known` of them may be there already.
#include <moegpt/core/matrix.hpp>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

template <class T>
void top_k(const T* x, int n, int k, int* index, int known = 0) {
  for (int j = known; j < k; ++j) {
    int best = -1;
    for (int i = 0; i < n; ++i) {
      bool taken = false;
      for (int before = 0; before < j; ++before) taken = taken || index[before] == i;
      if (!taken && (best < 0 || x[i] > x[best])) best = i;
    }
    index[j] = best;
  }
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
