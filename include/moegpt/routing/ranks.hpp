#pragma once
// Ranks: the processes that compute one batch together, each a part of its sequences (dist/distribution.hpp).
// Losses that are no means over tokens depend on the whole batch, so their sums are exchanged.
#include <moegpt/layers/pass.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// sum[i] = sum over r of parts[r][i], added in the order of r. parts [count, n], sum [n].
template <class T>
void sum_parts(const T* parts, int count, Index n, T* sum) {
  for (Index i = 0; i < n; ++i) sum[i] = parts[i];
  for (int r = 1; r < count; ++r)
    for (Index i = 0; i < n; ++i) sum[i] += parts[r * n + i];
}

// Parts have equal shapes; rank r has the sequences after those of ranks below r. A null pointer to Ranks:
// this process has the whole batch. All calls are collective: every rank makes them in the same order.
struct Ranks {
  int rank = 0, count = 1;
  // The group of this rank, whose experts are distributed: member i has the i-th part of them.
  int member = 0, members = 1;

  void* object = nullptr;
  // all[r] = mine of rank r, `bytes` each.
  void (*gather)(void* object, const void* mine, void* all, Index bytes) = nullptr;
  // Within the group: sends send_count[i] rows to member i and receives receive_count[i] rows of it, both in
  // the order of members.
  void (*exchange)(void* object, const void* send, const Index* send_count, void* receive,
                   const Index* receive_count, Index row_bytes) = nullptr;

  // values[i] = sum over ranks of values[i], added in their order, so that all ranks have the same bits.
  template <class T>
  void sum(T* values, Index n) const {
    sum_parts(gather_all(values, n), count, n, values);
  }
  // Whether all ranks have equal values.
  bool agree(Index value) const {
    const Index* all = gather_all(&value, 1);
    for (int r = 1; r < count; ++r)
      if (all[r] != all[0]) return false;
    return true;
  }

 private:
  template <class T>
  const T* gather_all(const T* values, Index n) const {
    memory_.resize(count * n * Index{sizeof(T)});
    T* all = reinterpret_cast<T*>(memory_.data());
    gather(object, values, all, n * Index{sizeof(T)});
    return all;
  }
  mutable Buffer<unsigned char> memory_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
