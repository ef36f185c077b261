#pragma once
// The attention core for all sequences and heads of a batch, in parallel: tasks are (sequence, head) forward and
// (sequence, key/value head) backward, so that each owns what it writes.
#include <moegpt/kernels/attention.hpp>
#include <moegpt/kernels/rotary.hpp>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

template <class T>
struct MultiHead {
  Index batch, length;                // of the queries
  Index heads, kv_heads, width;       // query head h shares key/value head h / (heads / kv_heads)
  Index key_rows;                     // rows of keys and values from one sequence to the next
  const Index* lengths;               // [batch] queries that are not padding; null: all
  AttentionHead<T> common;            // keys and key are set for each head
  Key noise;                          // of dropout
  Index first_sequence;               // global number of sequence 0, for noise

  Index group() const { return heads / kv_heads; }
  AttentionHead<T> head(Index b, Index h) const {
    AttentionHead<T> result = common;
    result.keys = common.first + (lengths ? lengths[b] : length);
    result.key = {mix64(noise.value + static_cast<std::uint64_t>((first_sequence + b) * heads + h))};
    return result;
  }
  // Head h of sequence b: rows x width.
  template <class U>
  MatrixView<U> queries(MatrixView<U> x, Index b, Index h) const {
    return x.rows_at({b * length, length}).cols_at(h * width, width);
  }
  template <class U>
  MatrixView<U> keys(MatrixView<U> x, Index b, Index kv) const {
    return x.rows_at({b * key_rows, key_rows}).cols_at(kv * width, width);
  }
};

// Numbers of scratch for each worker.
inline Index multi_head_scratch(Index length, Index keys) { return attention_scratch(keys) + length; }

// mixed_h = softmax(scale q_h k^T) v;  lse [tokens, heads]
template <class T>
[[gnu::noinline]] void multi_head_forward(const Exec& exec, const MultiHead<T>& m, MatrixView<const T> q,
                                          MatrixView<const T> k, MatrixView<const T> v, MatrixView<T> mixed,
                                          MatrixView<T> lse, T* scratch) {
  const Index each = multi_head_scratch(m.length, m.common.first + m.length);
  exec.parallel_for_worker(m.batch * m.heads, [&](Index task, int worker) {
    const Index b = task / m.heads, h = task % m.heads, kv = h / m.group();
    T *head_lse = scratch + worker * each, *scores = head_lse + m.length;
    attention_forward<T>(m.head(b, h), m.queries(q, b, h), m.keys(k, b, kv), m.keys(v, b, kv), m.queries(mixed, b, h),
                         head_lse, scores);
    for (Index t = 0; t < m.length; ++t) lse[b * m.length + t][h] = head_lse[t];
  });
}

// dq, dk and dv are overwritten.
template <class T>
[[gnu::noinline]] void multi_head_backward(const Exec& exec, const MultiHead<T>& m, MatrixView<const T> q,
                                           MatrixView<const T> k, MatrixView<const T> v, MatrixView<const T> mixed,
                                           MatrixView<const T> lse, MatrixView<const T> d_mixed, MatrixView<T> dq,
                                           MatrixView<T> dk, MatrixView<T> dv, T* scratch) {
  const Index each = multi_head_scratch(m.length, m.length);
  exec.parallel_for_worker(m.batch * m.kv_heads, [&](Index task, int worker) {
    const Index b = task / m.kv_heads, kv = task % m.kv_heads;
    T *head_lse = scratch + worker * each, *scores = head_lse + m.length;
    const MatrixView<T> own_dk = m.keys(dk, b, kv), own_dv = m.keys(dv, b, kv);
    for (Index t = 0; t < m.key_rows; ++t)
      for (Index i = 0; i < m.width; ++i) own_dk[t][i] = own_dv[t][i] = 0;
    for (Index h = kv * m.group(); h < (kv + 1) * m.group(); ++h) {
      for (Index t = 0; t < m.length; ++t) head_lse[t] = lse[b * m.length + t][h];
      attention_backward<T>(m.head(b, h), m.queries(q, b, h), m.keys(k, b, kv), m.keys(v, b, kv),
                            m.queries(mixed, b, h), head_lse, m.queries(d_mixed, b, h), m.queries(dq, b, h), own_dk,
                            own_dv, scores);
    }
  });
}

// cos and sin of `length` positions: [length, width / 2] each.
template <class T>
[[gnu::noinline]] void rotary_table(const Exec& exec, Index first, Index length, double base, Index width, T* cosine,
                                    T* sine) {
  exec.parallel_for(length, [&](Index t) {
    rotary_angles(first + t, base, width, cosine + t * (width / 2), sine + t * (width / 2));
  });
}

// Turns all heads of all tokens by the angles of their positions; direction -1 turns back.
template <class T>
[[gnu::noinline]] void rotate_heads(const Exec& exec, MatrixView<T> x, Index length, Index width, const T* cosine,
                                    const T* sine, T direction) {
  for_each_piece(exec, x.rows, 64, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n) {
      const Index at = n % length * (width / 2);
      for (Index first = 0; first < x.cols; first += width)
        rotate<T>(x[n] + first, cosine + at, sine + at, width, direction);
    }
  });
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
