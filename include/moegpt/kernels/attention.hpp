#pragma once
// The one attention core: softmax(scale Q K^T) V for one (sequence, head), forward and backward, with separate
// query and key lengths, a first position and a mask. Training, generation with a cache, encoders and
// cross-attention are calls of it. Only the output and log sum exp of each query are kept; probabilities are
// recomputed in backward (FlashAttention's formulas, Dao et al. 2022).
#include <moegpt/core/random.hpp>
#include <moegpt/kernels/gemm.hpp>
#include <moegpt/kernels/softmax.hpp>

namespace moegpt::inline MOEGPT_BUILD {

enum class Mask {
  causal,   // a query at position p sees keys 0 .. p
  full,
};

namespace kernels {

// What one (sequence, head) needs to know besides its numbers.
template <class T>
struct AttentionHead {
  T scale;
  Mask mask;
  Index first = 0;            // position of query 0 among the keys
  Index keys = 0;             // keys that exist (a padded sequence has fewer than its rows)
  double dropout = 0;         // on probabilities; 0: none
  Key key{};                  // of the dropout mask, already particular to this sequence and head
  Index key_stride = 0;       // counter = query position * key_stride + key

  // Keys that query i sees: [0, visible(i)).
  Index visible(Index i) const {
    return mask == Mask::causal && first + i + 1 < keys ? first + i + 1 : keys;
  }
  // 0 or 1 / (1 - dropout)
  T kept(Index query, Index j) const {
    const auto counter = static_cast<std::uint64_t>((first + query) * key_stride + j);
    return key.uniform(counter) < dropout ? T(0) : T(1 / (1 - dropout));
  }
};

inline constexpr Index attention_block = 64;   // queries handled together

// p = softmax over visible keys of scale q k^T for queries `rows`; zero where masked. [rows.count, seen]
template <class T>
void attention_scores(const AttentionHead<T>& head, MatrixView<const T> q, MatrixView<const T> k, Rows rows,
                      MatrixView<T> p) {
  gemm<T>(q.rows_at(rows), transposed<T>(k.rows_at({0, p.cols})), p);
  for (Index i = 0; i < rows.count; ++i) {
    const Index n = head.visible(rows.first + i);
    for (Index j = 0; j < n; ++j) p[i][j] *= head.scale;
    for (Index j = n; j < p.cols; ++j) p[i][j] = 0;
  }
}

// o = (p * dropout mask) v; lse[i] = log sum exp of query i's scores. scratch: attention_block x keys.
template <class T>
void attention_forward(const AttentionHead<T>& head, MatrixView<const T> q, MatrixView<const T> k,
                       MatrixView<const T> v, MatrixView<T> o, T* lse, T* scratch) {
  const Pieces blocks{q.rows, attention_block};
  for (Index b = 0; b < blocks.size(); ++b) {
    const Rows rows = blocks[b];
    const Index seen = head.visible(rows.first + rows.count - 1);
    const MatrixView<T> p{scratch, rows.count, seen, seen};
    attention_scores(head, q, k, rows, p);
    for (Index i = 0; i < rows.count; ++i) {
      lse[rows.first + i] = softmax(p[i], head.visible(rows.first + i));
      if (head.dropout > 0)
        for (Index j = 0; j < head.visible(rows.first + i); ++j) p[i][j] *= head.kept(rows.first + i, j);
    }
    gemm<T>(MatrixView<const T>(p), v.rows_at({0, seen}), o.rows_at(rows));
  }
}

// Floats of scratch that attention_backward needs.
inline Index attention_scratch(Index keys) { return 2 * attention_block * keys; }

// dq is overwritten; dk and dv are added to, since query heads share them.
//   delta_i = <do_i, o_i>,  dp_ij = <do_i, v_j> m_ij,  ds_ij = p_ij (dp_ij - delta_i)
//   dv_j += sum_i p_ij m_ij do_i,  dq_i = scale sum_j ds_ij k_j,  dk_j += scale sum_i ds_ij q_i
template <class T>
void attention_backward(const AttentionHead<T>& head, MatrixView<const T> q, MatrixView<const T> k,
                        MatrixView<const T> v, MatrixView<const T> o, const T* lse, MatrixView<const T> d_o,
                        MatrixView<T> dq, MatrixView<T> dk_sum, MatrixView<T> dv_sum, T* scratch) {
  const Pieces blocks{q.rows, attention_block};
  for (Index b = 0; b < blocks.size(); ++b) {
    const Rows rows = blocks[b];
    const Index seen = head.visible(rows.first + rows.count - 1);
    const MatrixView<T> p{scratch, rows.count, seen, seen};
    const MatrixView<T> ds{scratch + rows.count * seen, rows.count, seen, seen};
    attention_scores(head, q, k, rows, p);
    gemm<T>(d_o.rows_at(rows), transposed<T>(v.rows_at({0, seen})), ds);
    for (Index i = 0; i < rows.count; ++i) {
      const Index query = rows.first + i, n = head.visible(query);
      const T delta = dot(d_o[query], o[query], o.cols);
      map(n, p[i], p[i], [&](Vector<T> s) { return exponential(s - lse[query]); });
      for (Index j = 0; j < n; ++j) {
        const T kept = head.dropout > 0 ? head.kept(query, j) : T(1);
        ds[i][j] = head.scale * p[i][j] * (ds[i][j] * kept - delta);
        p[i][j] *= kept;
      }
      for (Index j = n; j < seen; ++j) ds[i][j] = 0;
    }
    gemm<T>(transposed<T>(p), d_o.rows_at(rows), dv_sum.rows_at({0, seen}), {.accumulate = true});
    gemm<T>(MatrixView<const T>(ds), k.rows_at({0, seen}), dq.rows_at(rows));
    gemm<T>(transposed<T>(ds), q.rows_at(rows), dk_sum.rows_at({0, seen}), {.accumulate = true});
  }
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
