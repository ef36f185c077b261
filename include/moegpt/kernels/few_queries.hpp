#pragma once
// Attention of a few queries over many keys, as generation has: what kernels/attention.hpp computes with
// queries in the lanes is computed here with keys in the lanes (scores) and with features in the lanes (sums
// of values). A query's numbers have the same bits in both: the same chains over features and over keys.
#include <moegpt/kernels/few_rows.hpp>
#include <moegpt/kernels/query_block.hpp>
#include <moegpt/kernels/vector_math.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// Whether these queries are few enough, and each sees keys enough, to be taken one by one.
template <class T>
bool are_few_queries(const AttentionHead<T>& head, Rows queries) {
  if (head.dropout > 0 || queries.count > lanes<T> / 4) return false;
  for (Index i = queries.first; i < queries.first + queries.count; ++i)
    if (head.rule.end(i) < lanes<T> || head.rule.begin(i) >= head.rule.end(i)) return false;
  return true;
}

// o_i = softmax(scale q_i K^T) V over the keys that query i sees, and lse[i], the log sum exp of its scores,
// for i in `rows`. q [queries, width], k and v [keys, width]; no dropout. scratch: as of attention_forward.
template <class T>
[[gnu::noinline]] void attention_of_few_queries(const AttentionHead<T>& head, MatrixView<const T> q,
                                                MatrixView<const T> k, MatrixView<const T> v, Rows rows,
                                                MatrixView<T> o, T* lse, T* scratch) {
  constexpr int W = lanes<T>;
  const Index width = whole_vectors<T>(q.cols);
  T *const scaled = scratch, *const sum = scaled + width, *const panel = sum + width;
  T* const score = panel + (width == q.cols ? 0 : attention_block * width);
  for (Index i = rows.first; i < rows.first + rows.count; ++i) {
    const Index begin = head.rule.begin(i), end = head.rule.end(i);
    const Index first = end - begin < W ? end - W : begin;  // a product has at least a vector of columns
    map(q.cols, q[i], scaled, [&](Vector<T> x) { return head.scale * x; });
    detail::gemm_few_rows<T>(MatrixView<const T>{scaled, 1, q.cols, width}, k.rows_at({first, end - first}),
                             {score + first, 1, end - first, end - first}, {});
    T top = score[begin], total = 0;
    for (Index j = begin; j < end; ++j) top = score[j] > top ? score[j] : top;
    map(end - begin, score + begin, score + begin, [&](Vector<T> s) { return exponential(s - top); });
    for (Index j = begin; j < end; ++j) total += score[j];
    if (width == q.cols) {
      product<T>(1, {score + begin, 0, 1}, v.rows_at({begin, end - begin}), sum, width, false);
    } else {
      for (Index j = begin; j < end; j += attention_block) {
        const Rows block{j, end - j < attention_block ? end - j : attention_block};
        const MatrixView<T> values{panel, block.count, width, width};
        pad<T>(v.rows_at(block), T(1), values);
        product<T>(1, {score + j, 0, 1}, MatrixView<const T>(values), sum, width, j > begin);
      }
    }
    lse[i] = top + logarithm<T>(Vector<T>{} + total)[0];
    const T factor = T(1) / total;
    map(o.cols, sum, o[i], [&](Vector<T> x) { return factor * x; });
  }
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
