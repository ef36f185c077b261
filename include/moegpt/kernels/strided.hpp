#pragma once
// The keys of a stride (Child et al. 2019): beside its local keys, a query at position p attends to each key
// j with (p - j) % stride = 0. Queries and keys of one residue modulo the stride attend to each other like a
// short sequence, whose rows are `stride` apart. So the keys of a stride before the local ones are one run
// per query, and so are those after them: two further parts of the softmax, computed by the same kernels.
#include <moegpt/kernels/attention.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// Elements of scratch beside those of attention.
inline Index strided_scratch(Index length, Index width, Index stride) {
  if (stride == 0) return 0;
  const Index forward = attention_block * ((width + 15) / 16 * 16 + 1),
              backward = 5 * (length / stride + 1) + 32;
  return ((forward > backward ? forward : backward) + 15) / 16 * 16;
}

namespace detail {

enum class Part { before, after };  // the local keys

// Queries `first`, first + stride ... of a head, `count` of them, and the keys of their residue.
template <class T>
struct Residue {
  const AttentionHead<T>& head;
  Index stride, first, count;
  Index residue = (head.rule.first + first) % stride;
  Index keys = keys_before(head.rule.keys);

  // Number of keys of this residue before key j.
  Index keys_before(Index j) const { return j > residue ? (j - residue + stride - 1) / stride : 0; }
  template <class U>
  MatrixView<U> queries_of(MatrixView<U> x) const {
    return {x[first], count, x.cols, x.stride * stride};
  }
  template <class U>
  MatrixView<U> keys_of(MatrixView<U> x) const {
    return {x[residue], keys, x.cols, x.stride * stride};
  }
  bool sees_local_keys(Index n) const {
    const Index i = first + n * stride;
    return head.rule.begin(i) < head.rule.end(i);
  }
  // runs [count]: the keys of each query, among those of the residue. Returns whether there are any.
  bool runs_of(Part part, Rows* runs) const {
    const KeyRule& rule = head.rule;
    bool any = false;
    for (Index n = 0; n < count; ++n) {
      const Index i = first + n * stride, begin = rule.begin(i), end = rule.end(i);
      Index from = rule.own ? rule.own[i].first : 0, to = rule.keys;
      if (rule.own && from + rule.own[i].count < to) to = from + rule.own[i].count;
      if (part == Part::before)
        to = begin < to ? begin : to;
      else
        from = end > begin ? end : begin;
      from = keys_before(from), to = keys_before(to);
      runs[n] = {from, to > from ? to - from : 0};
      any = any || to > from;
    }
    return any;
  }
  // The head of this residue; each residue has its own dropout mask.
  AttentionHead<T> of(const Rows* runs) const {
    AttentionHead<T> own = head;
    own.rule = {.mask = Mask::full, .first = (head.rule.first + first) / stride, .keys = keys, .own = runs};
    own.key = {mix64(head.key.value + 1 + static_cast<std::uint64_t>(residue))};
    return own;
  }
};

// Adds a part with output `more` and log-sum-exp `more_lse` to a softmax with output o and log-sum-exp lse:
//   o = (e^lse o + e^more_lse more) / (e^lse + e^more_lse)
template <class T>
void merge(const T* more, T more_lse, Index width, T* o, T& lse) {
  const T top = lse > more_lse ? lse : more_lse;
  const T a = exponential(Vector<T>{} + (lse - top))[0], b = exponential(Vector<T>{} + (more_lse - top))[0];
  const T total = a + b, share = a / total, more_share = b / total;
  map2(width, o, more, o, [&](Vector<T> x, Vector<T> y) { return share * x + more_share * y; });
  lse = top + logarithm<T>(Vector<T>{} + total)[0];
}

}  // namespace detail

// Adds the keys of the stride to o and lse [queries, 1] of the local keys, for the queries first, first +
// stride ..., count <= attention_block of them. scratch: attention_scratch and strided_scratch.
template <class T>
[[gnu::noinline]] void strided_forward(const AttentionHead<T>& head, Index stride, MatrixView<const T> q,
                                       MatrixView<const T> k, MatrixView<const T> v, Index first, Index count,
                                       MatrixView<T> o, MatrixView<T> lse, T* scratch) {
  const detail::Residue<T> of{head, stride, first, count};
  if (of.keys == 0) return;
  Rows runs[attention_block];
  bool seen[attention_block];
  for (Index n = 0; n < count; ++n) seen[n] = of.sees_local_keys(n);
  const Index width = (q.cols + 15) / 16 * 16;
  const MatrixView<T> more{scratch, count, q.cols, width};
  T *const more_lse = scratch + attention_block * width, *const rest = more_lse + attention_block;
  for (const detail::Part part : {detail::Part::before, detail::Part::after}) {
    if (part == detail::Part::after && head.rule.mask == Mask::causal) break;
    if (!of.runs_of(part, runs)) continue;
    attention_forward<T>(of.of(runs), of.queries_of(q), of.keys_of(k), of.keys_of(v), {0, count}, more,
                         more_lse, rest);
    for (Index n = 0; n < count; ++n) {
      if (runs[n].count == 0) continue;
      T *const own = o[first + n * stride], &own_lse = *lse[first + n * stride];
      if (seen[n]) {
        detail::merge(more[n], more_lse[n], q.cols, own, own_lse);
      } else {
        std::memcpy(own, more[n], bytes_of<T>(q.cols));
        own_lse = more_lse[n];
      }
      seen[n] = true;
    }
  }
}

// Adds the gradients of the keys of the stride to dq, dk and dv, for all queries first, first + stride ...
template <class T>
[[gnu::noinline]] void strided_backward(const AttentionHead<T>& head, Index stride, MatrixView<const T> q,
                                        MatrixView<const T> k, MatrixView<const T> v, MatrixView<const T> o,
                                        MatrixView<const T> lse, MatrixView<const T> d_o, Index first,
                                        MatrixView<T> dq, MatrixView<T> dk, MatrixView<T> dv, T* scratch) {
  const detail::Residue<T> of{head, stride, first, (q.rows - first + stride - 1) / stride};
  if (of.keys == 0) return;
  T* const lse_of = scratch;
  Rows* const runs = reinterpret_cast<Rows*>(scratch + (of.count + 15) / 16 * 16);
  T* const rest = scratch + strided_scratch(q.rows, q.cols, stride);
  for (Index n = 0; n < of.count; ++n) lse_of[n] = *lse[first + n * stride];
  for (const detail::Part part : {detail::Part::before, detail::Part::after}) {
    if (part == detail::Part::after && head.rule.mask == Mask::causal) break;
    if (of.runs_of(part, runs))
      attention_backward<T>(of.of(runs), of.queries_of(q), of.keys_of(k), of.keys_of(v), of.queries_of(o),
                            lse_of, of.queries_of(d_o), {0, of.count}, {0, of.keys}, of.queries_of(dq),
                            of.keys_of(dk), of.keys_of(dv), {.keys = true, .queries = true}, rest);
  }
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
