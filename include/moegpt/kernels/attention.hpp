#pragma once
// Attention of one (sequence, head): softmax(scale Q K^T) V, forward and backward, with separate numbers of
// queries and keys and a rule of which keys each query attends to. Training, generation with a cache,
// encoders and cross-attention all use it. Forward saves the output and the log-sum-exp (lse) of each query;
// backward recomputes probabilities (FlashAttention's formulas, Dao et al. 2022).
//
// Scores are stored transposed, [key][query]: a vector holds consecutive queries, and maxima and sums over
// keys are computed per lane, key by key. So the result of a query does not depend on other queries or on the
// blocks of keys (invariant 6). Keys outside the run of a block of queries are skipped.
#include <moegpt/core/exec.hpp>
#include <moegpt/kernels/few_queries.hpp>
#include <moegpt/kernels/query_block.hpp>
#include <moegpt/kernels/vector_math.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// Size of scratch, in elements, of attention_forward and attention_backward.
inline Index attention_scratch(Index keys, Index width) {
  const Index B = attention_block, w = (width + 15) / 16 * 16;
  return keys * (3 * w > B ? 3 * w : B) + 5 * B * w + 3 * B * B + 2 * B;
}

namespace detail {

// Allocates matrices from scratch, one after another.
template <class T>
struct Carve {
  T* free;
  MatrixView<T> operator()(Index rows, Index cols) {
    const MatrixView<T> m{free, rows, cols, cols};
    free += rows * cols;
    return m;
  }
  MatrixView<Word<T>> words(Index rows, Index cols) {
    return {reinterpret_cast<Word<T>*>((*this)(rows, cols).data), rows, cols, cols};
  }
};

}  // namespace detail

// For queries `rows`: o = (p * dropout mask) v, lse[i] = log-sum-exp of the scores of query i. q, o [queries,
// width], k, v [keys, width].
template <class T>
[[gnu::noinline]] void attention_forward(const AttentionHead<T>& head, MatrixView<const T> q,
                                         MatrixView<const T> k, MatrixView<const T> v, Rows rows,
                                         MatrixView<T> o, T* lse, T* scratch) {
  if (are_few_queries(head, rows)) return attention_of_few_queries<T>(head, q, k, v, rows, o, lse, scratch);
  constexpr int W = lanes<T>;
  constexpr T lowest = std::numeric_limits<T>::lowest();
  const detail::QueryBlock<T> queries{head, rows};
  const Index R = queries.width, width = whole_vectors<T>(q.cols);
  const Index first = queries.run.first, seen = first + queries.run.count;
  detail::Carve<T> carve{scratch};
  const MatrixView<T> q_t = carve(width, R), panel = carve(attention_block, width), sum = carve(R, width);
  const MatrixView<T> s = carve(seen - first, R), total = carve(2, R);
  const auto words = carve.words(attention_block, R);

  pad<T>(q.rows_at(rows), head.scale, panel.rows_at({0, R}));
  transpose<T>(panel.rows_at({0, R}), q_t);
  queries.scores(k, queries.run, MatrixView<const T>(q_t).rows_at({0, q.cols}), s);
  for (Index i = 0; i < R; i += W) {  // the maximum over keys
    const Vector<T> limit = queries.limits(i);
    Vector<T> top[2] = {Vector<T>{} + lowest, Vector<T>{} + lowest};
    const Index all = queries.all_end(i), any = queries.any_end(i), all_begin = queries.all_begin(i);
    Index j = queries.any_begin(i);
    if (j < all_begin) {
      const Vector<T> start = queries.starts(i);
      for (Vector<T> key = Vector<T>{} + static_cast<T>(j); j < all_begin && j < any; ++j, key += 1)
        top[0] = ((key >= start) & (key < limit)) ? larger<T>(load(s[j - first] + i), top[0]) : top[0];
    }
    for (; j + 2 <= all; j += 2)
      for (int c = 0; c < 2; ++c) top[c] = larger<T>(load(s[j + c - first] + i), top[c]);
    for (Vector<T> key = Vector<T>{} + static_cast<T>(j); j < any; ++j, key += 1)
      top[0] = key < limit ? larger<T>(load(s[j - first] + i), top[0]) : top[0];
    store(total[1] + i, larger<T>(top[0], top[1]));
    store(total[0] + i, Vector<T>{});
  }
  if (seen == first) std::memset(sum.data, 0, bytes_of<T>(R * width));
  const bool dropping = head.dropout > 0;
  const detail::Word<T> threshold = queries.threshold();
  for (Index j0 = first; j0 < seen; j0 += attention_block) {
    const Rows block{j0, seen - j0 < attention_block ? seen - j0 : attention_block};
    if (dropping) queries.draw(block, words);
    for (Index i = 0; i < R; i += W) {
      const Vector<T> limit = queries.limits(i), top = load(total[1] + i);
      const Index end = j0 + block.count, any = queries.any_end(i) < end ? queries.any_end(i) : end;
      const Index any_begin = queries.any_begin(i), all_begin = queries.all_begin(i);
      Vector<T> t = load(total[0] + i);
      Index j = j0;
      const auto weigh = [&](auto sees) {
        Vector<T> e = exponential(load(s[j - first] + i) - top);
        e = sees ? e : Vector<T>{};
        t += e;
        if (dropping) e = load(words[j - j0] + i) < threshold ? Vector<T>{} : e;
        store(s[j - first] + i, e);
      };
      for (; j < any_begin && j < end; ++j) store(s[j - first] + i, Vector<T>{});
      if (j < all_begin) {
        const Vector<T> start = queries.starts(i);
        for (Vector<T> key = Vector<T>{} + static_cast<T>(j); j < all_begin && j < any; ++j, key += 1)
          weigh((key >= start) & (key < limit));
      }
      for (Vector<T> key = Vector<T>{} + static_cast<T>(j); j < any; ++j, key += 1) weigh(key < limit);
      for (; j < end; ++j) store(s[j - first] + i, Vector<T>{});
      store(total[0] + i, t);
    }
    pad<T>(v.rows_at(block), T(1), panel.rows_at({0, block.count}));
    queries.sum_keys(s.rows_at({j0 - first, block.count}), block, MatrixView<const T>(panel), sum,
                     j0 > first);
  }
  for (Index i = 0; i < R; i += W) {  // total[0] becomes the factor of each query
    const Vector<T> t = load(total[0] + i), top = load(total[1] + i);
    store(total[1] + i, top + logarithm<T>(t));
    const auto none = t == T(0);
    store(total[0] + i, none ? t : static_cast<T>(1 / (1 - head.dropout)) / (none ? Vector<T>{} + T(1) : t));
  }
  for (Index i = 0; i < rows.count; ++i) {
    lse[rows.first + i] = total[1][i];
    const T factor = total[0][i];
    map(o.cols, sum[i], o[rows.first + i], [&](Vector<T> x) { return factor * x; });
  }
}

namespace detail {
// sums[i] = <a_i, b_i>, zero for padding rows up to a whole vector. scratch: 2 lanes<T> elements per row.
template <class T>
void row_dots(MatrixView<const T> a, MatrixView<const T> b, T* sums, T* scratch) {
  constexpr int W = lanes<T>;
  const Index rows = whole_vectors<T>(a.rows);
  const MatrixView<T> folded{scratch, rows, W, W}, transposed{scratch + rows * W, W, rows, rows};
  for (Index i = 0; i < rows; ++i) {
    Vector<T> s{};
    if (i < a.rows)
      for_each_vector<T>(a.cols, [&](Index c, auto part) { s += part.load(a[i] + c) * part.load(b[i] + c); });
    store(folded[i], s);
  }
  transpose<T>(folded, transposed);
  for (Index i = 0; i < rows; i += W) {
    Vector<T> s{};
    for (int l = 0; l < W; ++l) s += load(transposed[l] + i);
    store(sums + i, s);
  }
}
}  // namespace detail

// What backward adds to instead of overwriting it: query heads share dk and dv, and the parts of a rule share
// dq.
struct Accumulate {
  bool keys = false, queries = false;
};

// Gradients of the pairs of queries `rows` and keys `keys`. dq, dk and dv are overwritten, or added to as
// `accumulate` states. Empty dq, or empty dk and dv: not required.
//   delta_i = <do_i, o_i>,  dp_ij = <do_i, v_j> m_ij,  ds_ij = p_ij (dp_ij - delta_i)
//   dv_j += sum_i p_ij m_ij do_i,  dq_i = scale sum_j ds_ij k_j,  dk_j += scale sum_i ds_ij q_i
template <class T>
[[gnu::noinline]] void attention_backward(const AttentionHead<T>& head, MatrixView<const T> q,
                                          MatrixView<const T> k, MatrixView<const T> v, MatrixView<const T> o,
                                          const T* lse, MatrixView<const T> d_o, Rows rows, Rows keys,
                                          MatrixView<T> dq, MatrixView<T> dk, MatrixView<T> dv,
                                          Accumulate accumulate, T* scratch) {
  constexpr int W = lanes<T>;
  constexpr Index B = attention_block;
  const Index width = whole_vectors<T>(q.cols);
  detail::Carve<T> carve{scratch};
  const MatrixView<T> k_panel = carve(keys.count, width);
  const MatrixView<T> dk_panel = carve(keys.count, width), dv_panel = carve(keys.count, width);
  T* const rest = carve.free;
  // Runs of keys do not move back from one block of queries to the next. So panels are filled up to the end
  // of a run, and gradients before its begin are final. With a window the rows in use move to the front now
  // and then, so that they stay in cache. Row 0 is that of key `moved`, all counted from keys.first.
  Index filled = 0, written = 0, moved = 0;
  const auto fill_to = [&](Index end) {
    if (end <= filled) return;
    const Rows more{filled - moved, end - filled};
    pad<T>(k.rows_at({keys.first + filled, more.count}), T(1), k_panel.rows_at(more));
    for (const MatrixView<T>& panel : {dk_panel, dv_panel})
      std::memset(panel[more.first], 0, bytes_of<T>(more.count * width));
    filled = end;
  };
  const auto write = [&](const T* sum, T* out) {
    if (accumulate.keys)
      map2(q.cols, sum, out, out, [](Vector<T> a, Vector<T> b) { return a + b; });
    else
      std::memcpy(out, sum, bytes_of<T>(q.cols));
  };
  const auto write_to = [&](Index end) {
    if (dk.empty()) return;
    fill_to(end);
    for (; written < end; ++written) {
      write(dk_panel[written - moved], dk[keys.first + written]);
      write(dv_panel[written - moved], dv[keys.first + written]);
    }
    if (written - moved < 16 * B) return;
    for (const MatrixView<T>& panel : {k_panel, dk_panel, dv_panel})
      std::memmove(panel[0], panel[written - moved], bytes_of<T>((filled - written) * width));
    moved = written;
  };
  const bool dropping = head.dropout > 0;
  const T keep_scale = static_cast<T>(1 / (1 - head.dropout));
  const Pieces blocks{rows.count, B};
  for (Index b = 0; b < blocks.size(); ++b) {
    const detail::QueryBlock<T> queries{head, {rows.first + blocks[b].first, blocks[b].count}};
    const Index R = queries.width, seen = queries.run.first + queries.run.count;
    const Index first = queries.run.first > keys.first ? queries.run.first : keys.first;
    const Index end = seen < keys.first + keys.count ? seen : keys.first + keys.count;
    if (end <= first && dq.empty()) continue;
    if (end > first) {
      write_to(first - keys.first);
      fill_to(end - keys.first);
    }
    carve.free = rest;
    const MatrixView<T> q_panel = carve(R, width), do_panel = carve(R, width), q_t = carve(width, R);
    const MatrixView<T> do_t = carve(width, R), sum = carve(R, width), p = carve(B, R), ds = carve(B, R);
    const MatrixView<T> of_query = carve(2, R);
    const auto words = carve.words(B, R);
    const detail::Word<T> threshold = queries.threshold();
    pad<T>(q.rows_at(queries.rows), head.scale, q_panel);
    pad<T>(d_o.rows_at(queries.rows), T(1), do_panel);
    transpose<T>(q_panel, q_t);
    transpose<T>(do_panel, do_t);
    detail::row_dots<T>(d_o.rows_at(queries.rows), o.rows_at(queries.rows), of_query[0], p.data);
    for (Index i = 0; i < R; ++i)
      of_query[1][i] = i < queries.rows.count ? lse[queries.rows.first + i] : T(0);
    if (end <= first) std::memset(sum.data, 0, bytes_of<T>(R * width));
    for (Index j0 = first; j0 < end; j0 += B) {
      const Rows block{j0, end - j0 < B ? end - j0 : B}, own{j0 - keys.first - moved, block.count};
      queries.scores(k, block, MatrixView<const T>(q_t).rows_at({0, q.cols}), p);
      queries.scores(v, block, MatrixView<const T>(do_t).rows_at({0, q.cols}), ds);
      if (dropping) queries.draw(block, words);
      for (Index i = 0; i < R; i += W) {
        const Vector<T> limit = queries.limits(i), delta = load(of_query[0] + i),
                        log_sum = load(of_query[1] + i);
        const Index by_limit = queries.any_end(i) - j0, any = by_limit < block.count ? by_limit : block.count;
        const Index any_begin = queries.any_begin(i) - j0, all_begin = queries.all_begin(i) - j0;
        Index j = 0;
        const auto weigh = [&](auto sees) {
          Vector<T> e = exponential(load(p[j] + i) - log_sum);
          e = sees ? e : Vector<T>{};
          const Vector<T> less = delta * e;
          if (dropping) e = load(words[j] + i) < threshold ? Vector<T>{} : e * keep_scale;
          store(p[j] + i, e);
          store(ds[j] + i, e * load(ds[j] + i) - less);
        };
        const auto skip = [&] {
          store(p[j] + i, Vector<T>{});
          store(ds[j] + i, Vector<T>{});
        };
        for (; j < any_begin && j < block.count; ++j) skip();
        if (j < all_begin) {
          const Vector<T> start = queries.starts(i);
          for (Vector<T> key = Vector<T>{} + static_cast<T>(j0 + j); j < all_begin && j < any; ++j, key += 1)
            weigh((key >= start) & (key < limit));
        }
        for (Vector<T> key = Vector<T>{} + static_cast<T>(j0 + j); j < any; ++j, key += 1) weigh(key < limit);
        for (; j < block.count; ++j) skip();
      }
      if (!dv.empty()) queries.sum_queries(p, block, MatrixView<const T>(do_panel), dv_panel.rows_at(own));
      if (!dk.empty()) queries.sum_queries(ds, block, MatrixView<const T>(q_panel), dk_panel.rows_at(own));
      if (!dq.empty())
        queries.sum_keys(ds, block, MatrixView<const T>(k_panel).rows_at(own), sum, j0 > first);
    }
    for (Index i = 0; i < queries.rows.count && !dq.empty(); ++i) {
      T* const out = dq[queries.rows.first + i];
      if (accumulate.queries)
        map2(dq.cols, sum[i], out, out, [&](Vector<T> x, Vector<T> y) { return y + head.scale * x; });
      else
        map(dq.cols, sum[i], out, [&](Vector<T> x) { return head.scale * x; });
    }
  }
  write_to(keys.count);
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
