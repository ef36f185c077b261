#pragma once
// Multi-head and grouped-query attention of a batch, in parallel. A task of forward is a block of queries of
// one (sequence, head), a task of backward a (sequence, key/value head) or a block of it: each owns its
// output. Keys of a stride follow, with a task for each residue of positions.
#include <moegpt/core/token_positions.hpp>
#include <moegpt/kernels/rotary.hpp>
#include <moegpt/kernels/strided.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

template <class T>
struct MultiHead {
  Index batch, length;                 // of the queries
  Index heads, kv_heads, width;        // query head h shares key/value head h / (heads / kv_heads)
  Index key_rows;                      // rows of keys and values from one sequence to the next
  Index key_length;                    // keys of each sequence after those before query 0 ...
  const Index* key_lengths = nullptr;  // ... or [batch] for each sequence; null: key_length
  bool cross = false;                  // keys have their own positions: none precede the queries
  const Index* firsts = nullptr;       // [batch] position of query 0; null: common.rule.first
  const Rows* own = nullptr;           // [batch x length] allowed keys of each query; null: all
  AttentionHead<T> common;             // rule.keys and key are set by head()
  Key noise;                           // RNG key of dropout
  Index first_sequence;                // global index of sequence 0, for dropout
  Index stride = 0;                    // further keys j with (p - j) % stride = 0; 0: none
  Index query_rows = 0;                // rows of queries from one sequence to the next; 0: length
  const Index* origins = nullptr;      // [batch] position of the first row of keys, even; null: 0

  Index group() const { return heads / kv_heads; }
  Index first_of(Index b) const { return firsts ? firsts[b] : common.rule.first; }
  Index keys_of(Index b) const {
    return (cross ? 0 : first_of(b)) + (key_lengths ? key_lengths[b] : key_length);
  }
  Index origin_of(Index b) const { return origins ? origins[b] : 0; }
  // Rows of keys that exist, of the sequence with most.
  Index most_keys() const {
    Index most = 0;
    for (Index b = 0; b < batch; ++b) {
      const Index keys = keys_of(b) - origin_of(b);
      most = keys > most ? keys : most;
    }
    return most;
  }
  Index stride_of_queries() const { return query_rows > 0 ? query_rows : length; }
  AttentionHead<T> head(Index b, Index h) const {
    AttentionHead<T> result = common;
    result.rule.origin = origin_of(b);
    result.rule.first = first_of(b) - result.rule.origin;
    result.rule.keys = keys_of(b) - result.rule.origin;
    if (own) result.rule.own = own + b * stride_of_queries();
    result.key = {mix64(noise.value + static_cast<std::uint64_t>((first_sequence + b) * heads + h))};
    return result;
  }
  // Head h of sequence b: [rows, width].
  template <class U>
  MatrixView<U> queries(MatrixView<U> x, Index b, Index h) const {
    return x.rows_at({b * stride_of_queries(), length}).cols_at(h * width, width);
  }
  // Log-sum-exp of head h of sequence b: [rows, 1].
  template <class U>
  MatrixView<U> lse(MatrixView<U> x, Index b, Index h) const {
    return x.rows_at({b * stride_of_queries(), length}).cols_at(h, 1);
  }
  template <class U>
  MatrixView<U> keys(MatrixView<U> x, Index b, Index kv) const {
    return x.rows_at({b * key_rows, key_rows}).cols_at(kv * width, width);
  }
};

// Size of scratch, in elements, for each worker.
inline Index multi_head_scratch(Index length, Index keys, Index width, Index stride = 0) {
  return attention_scratch(keys, width) + (length + 15) / 16 * 16 + strided_scratch(length, width, stride);
}

namespace detail {
// f(sequence, head, query, worker) for the first queries of all residues, of each sequence and head.
template <class T, class F>
void for_each_residue(const Exec& exec, const MultiHead<T>& m, Index heads, F&& f) {
  const Index residues = m.stride < m.length ? m.stride : m.length;
  exec.parallel_for_worker(m.batch * heads * residues, [&](Index task, int worker) {
    const Index pair = task / residues;
    f(pair / heads, pair % heads, task % residues, worker);
  });
}
}  // namespace detail

// mixed_h = softmax(scale q_h k^T) v;  lse [tokens, heads]
template <class T>
[[gnu::noinline]] void multi_head_forward(const Exec& exec, const MultiHead<T>& m, MatrixView<const T> q,
                                          MatrixView<const T> k, MatrixView<const T> v, MatrixView<T> mixed,
                                          MatrixView<T> lse, T* scratch) {
  const Index each = multi_head_scratch(m.length, m.most_keys(), m.width, m.stride);
  const Pieces blocks{m.length, attention_block};
  exec.parallel_for_worker(m.batch * m.heads * blocks.size(), [&](Index task, int worker) {
    const Index pair = task / blocks.size(), b = pair / m.heads, h = pair % m.heads, kv = h / m.group();
    const Rows rows = blocks[blocks.size() - 1 - task % blocks.size()];  // the longest first
    T *lse_h = scratch + worker * each, *rest = lse_h + (m.length + 15) / 16 * 16;
    attention_forward<T>(m.head(b, h), m.queries(q, b, h), m.keys(k, b, kv), m.keys(v, b, kv), rows,
                         m.queries(mixed, b, h), lse_h, rest);
    const MatrixView<T> saved = m.lse(lse, b, h);
    for (Index t = rows.first; t < rows.first + rows.count; ++t) *saved[t] = lse_h[t];
  });
  if (m.stride == 0) return;
  detail::for_each_residue(exec, m, m.heads, [&](Index b, Index h, Index first, int worker) {
    const Index kv = h / m.group(), step = attention_block * m.stride;
    for (Index i = first; i < m.length; i += step) {
      const Index all = (m.length - i + m.stride - 1) / m.stride;
      strided_forward<T>(m.head(b, h), m.stride, m.queries(q, b, h), m.keys(k, b, kv), m.keys(v, b, kv), i,
                         all < attention_block ? all : attention_block, m.queries(mixed, b, h),
                         m.lse(lse, b, h), scratch + worker * each);
    }
  });
}

// With fewer (sequence, key/value head) pairs than this, backward has tasks for blocks of queries (dq) and
// for blocks of keys (dk, dv). Both recompute the probabilities: seven products instead of five, but more
// tasks.
inline constexpr Index few_heads = 4;

// dq, dk and dv are overwritten.
template <class T>
[[gnu::noinline]] void multi_head_backward(const Exec& exec, const MultiHead<T>& m, MatrixView<const T> q,
                                           MatrixView<const T> k, MatrixView<const T> v,
                                           MatrixView<const T> mixed, MatrixView<const T> lse,
                                           MatrixView<const T> d_mixed, MatrixView<T> dq, MatrixView<T> dk,
                                           MatrixView<T> dv, T* scratch) {
  const Index each = multi_head_scratch(m.length, m.key_rows, m.width, m.stride);
  // Head h, queries `rows`, keys `keys`; of_queries: compute dq, of_keys: compute dk and dv.
  auto head = [&](Index b, Index h, Rows rows, Rows keys, bool of_queries, bool of_keys, int worker) {
    const Index kv = h / m.group();
    T *lse_h = scratch + worker * each, *rest = lse_h + (m.length + 15) / 16 * 16;
    const MatrixView<const T> saved = m.lse(lse, b, h);
    for (Index t = rows.first; t < rows.first + rows.count; ++t) lse_h[t] = *saved[t];
    attention_backward<T>(m.head(b, h), m.queries(q, b, h), m.keys(k, b, kv), m.keys(v, b, kv),
                          m.queries(mixed, b, h), lse_h, m.queries(d_mixed, b, h), rows, keys,
                          of_queries ? m.queries(dq, b, h) : MatrixView<T>{},
                          of_keys ? m.keys(dk, b, kv) : MatrixView<T>{},
                          of_keys ? m.keys(dv, b, kv) : MatrixView<T>{}, {.keys = h > kv * m.group()}, rest);
  };
  // All heads that share these keys, and all queries that attend to some of them. Rows beyond the keys become
  // zero.
  auto heads_of_keys = [&](Index b, Index kv, Rows keys, bool of_queries, int worker) {
    const KeyRule rule = m.head(b, kv * m.group()).rule;
    const Index end = keys.first + keys.count;
    const Index exist = rule.keys < end ? (rule.keys > keys.first ? rule.keys : keys.first) : end;
    const Index first = of_queries ? 0 : rule.first_query(keys.first);
    const Index last = of_queries ? m.length : rule.end_query(exist - 1, m.length);
    for (Index h = kv * m.group(); h < (kv + 1) * m.group(); ++h)
      head(b, h, {first, last > first ? last - first : 0}, {keys.first, exist - keys.first}, of_queries, true,
           worker);
    for (Index j = exist; j < end; ++j) {
      std::memset(m.keys(dk, b, kv)[j], 0, bytes_of<T>(m.width));
      std::memset(m.keys(dv, b, kv)[j], 0, bytes_of<T>(m.width));
    }
  };
  const Index pairs = m.batch * m.kv_heads;
  if (pairs >= few_heads) {
    exec.parallel_for_worker(pairs, [&](Index task, int worker) {
      heads_of_keys(task / m.kv_heads, task % m.kv_heads, {0, m.key_rows}, true, worker);
    });
  } else {
    const Index queries = Pieces{m.length, attention_block}.size(),
                keys = (m.key_rows + attention_block - 1) / attention_block;
    const Index first_tasks = m.batch * m.heads * queries;
    exec.parallel_for_worker(first_tasks + pairs * keys, [&](Index task, int worker) {
      if (task < first_tasks) {
        const Index pair = task / queries, b = pair / m.heads;
        const Rows rows = Pieces{m.length, attention_block}[task % queries];
        head(b, pair % m.heads, rows, m.head(b, pair % m.heads).rule.run(rows), true, false, worker);
      } else {
        const Index pair = (task - first_tasks) / keys, first = (task - first_tasks) % keys * attention_block;
        const Index count = m.key_rows - first < attention_block ? m.key_rows - first : attention_block;
        heads_of_keys(pair / m.kv_heads, pair % m.kv_heads, {first, count}, false, worker);
      }
    });
  }
  if (m.stride == 0) return;
  detail::for_each_residue(exec, m, m.kv_heads, [&](Index b, Index kv, Index first, int worker) {
    for (Index h = kv * m.group(); h < (kv + 1) * m.group(); ++h)
      strided_backward<T>(m.head(b, h), m.stride, m.queries(q, b, h), m.keys(k, b, kv), m.keys(v, b, kv),
                          m.queries(mixed, b, h), m.lse(lse, b, h), m.queries(d_mixed, b, h), first,
                          m.queries(dq, b, h), m.keys(dk, b, kv), m.keys(dv, b, kv), scratch + worker * each);
  });
}

// cosine, sine [count, r / 2]: of the positions of the first `count` tokens. frequencies [r / 2] is scratch.
template <class T>
[[gnu::noinline]] void rotary_table(const Exec& exec, TokenPositions positions, Index count,
                                    const Rotary& rotary, double* frequencies, T* cosine, T* sine) {
  const Index pairs = rotary.width / 2;
  for (Index i = 0; i < pairs; ++i) frequencies[i] = rotary.frequency(i);
  const double length = rotary.length_factor();
  exec.parallel_for(count, [&](Index n) {
    rotary_angles(positions[n], frequencies, length, pairs, cosine + n * pairs, sine + n * pairs);
  });
}

// Rotates all heads [width] of token n by the angles of row n mod `period` of the table; direction -1: the
// inverse rotation.
template <class T>
[[gnu::noinline]] void rotate_heads(const Exec& exec, MatrixView<T> x, Index period, Index width,
                                    const Rotary& rotary, const T* cosine, const T* sine, T direction) {
  const auto rotate_pairs = rotary.pairing == Pairing::halves ? &rotate<T> : &rotate_adjacent<T>;
  for_each_piece(exec, x.rows, 64, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n) {
      const Index at = n % period * (rotary.width / 2);
      for (Index first = 0; first < x.cols; first += width)
        rotate_pairs(x[n] + first, cosine + at, sine + at, rotary.width, direction);
    }
  });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
