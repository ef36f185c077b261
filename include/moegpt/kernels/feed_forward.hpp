#pragma once
// Hidden layer of a feed-forward network: h = act(W x + b), or gated, h = act(gate) * (W x +
// b). Activations are computed by the epilogue of the product, on blocks that are still in cache.
#include <moegpt/kernels/activations.hpp>
#include <moegpt/kernels/gemm.hpp>
#include <moegpt/kernels/reduce.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// pre = x W^T + b,  h = act(pre), with W stored as S
template <class T, class S = T>
[[gnu::noinline]] void hidden(const Exec& exec, Activation act, Operand<T> x, StoredView<S> w, const T* b,
                              MatrixView<T> pre, MatrixView<T> h) {
  const auto activate_block = [&](Rows rows, Rows cols) {
    for (Index s = rows.first; s < rows.first + rows.count; ++s)
      activate(act, pre[s] + cols.first, h[s] + cols.first, cols.count);
  };
  gemm<T, WeightOperand<T, S>>(exec, x, transposed<T>(w), pre, {.bias = b}, Epilogue(activate_block));
}

// up = x W^T + b,  h = act(gate) up, with W stored as S
template <class T, class S = T>
[[gnu::noinline]] void hidden_gated(const Exec& exec, Activation act, Operand<T> x, StoredView<S> w,
                                    const T* b, MatrixView<const T> gate, MatrixView<T> up, MatrixView<T> h) {
  const auto activate_block = [&](Rows rows, Rows cols) {
    for (Index s = rows.first; s < rows.first + rows.count; ++s)
      activate_gated(act, gate[s] + cols.first, up[s] + cols.first, h[s] + cols.first, cols.count);
  };
  gemm<T, WeightOperand<T, S>>(exec, x, transposed<T>(w), up, {.bias = b}, Epilogue(activate_block));
}

// Backward from y = W_down h + b_down to h, where dy is the gradient of g y:
//   dh = W_down^T dy,   d_gate = <dy, y> = <dh, h> + <dy, b_down>
// for_row(s, columns, dh) converts these columns of row s of dh to gradients and returns their part of <dh,
// h>, per lane. Lanes are summed at the end, so that the sum does not depend on the blocking.
template <class T, class F>
void hidden_backward(MatrixView<const T> dy, MatrixView<const T> w_down, const T* b_down, MatrixView<T> dh,
                     T* d_gate, F&& for_row) {
  constexpr Index most = 256;
  Vector<T> share[most];
  const Pieces pieces{dy.rows, most};
  for (Index i = 0; i < pieces.size(); ++i) {
    const Rows piece = pieces[i];
    for (Index s = 0; s < piece.count; ++s) share[s] = Vector<T>{};
    const auto block = [&](Rows rows, Rows cols) {
      for (Index s = rows.first; s < rows.first + rows.count; ++s)
        share[s] += for_row(piece.first + s, cols, dh[piece.first + s] + cols.first);
    };
    gemm<T>(dy.rows_at(piece), w_down, dh.rows_at(piece), {}, Epilogue(block));
    if (!d_gate) continue;
    for (Index s = 0; s < piece.count; ++s) {
      const T* d = dy[piece.first + s];
      d_gate[piece.first + s] = sum_lanes<T>(share[s]) + (b_down ? dot(d, b_down, dy.cols) : T(0));
    }
  }
}

// Recomputes h = act(pre);  d_pre = g dh act'(pre). Null g: ones.
template <class T>
[[gnu::noinline]] void hidden_backward(Activation act, MatrixView<const T> dy, MatrixView<const T> w_down,
                                       const T* b_down, const T* g, MatrixView<const T> pre, MatrixView<T> h,
                                       MatrixView<T> d_pre, T* d_gate) {
  with_activation(act, [&](auto tag) {
    hidden_backward<T>(dy, w_down, b_down, d_pre, d_gate, [&](Index s, Rows cols, T* d) {
      const T gate = g ? g[s] : T(1);
      Vector<T> share{};
      for_each_vector<T>(cols.count, [&](Index i, auto part) {
        const auto [value, slope] = activation<decltype(tag)::value, T>(part.load(pre[s] + cols.first + i));
        const Vector<T> dh = part.load(d + i);
        share += dh * value;
        part.store(h[s] + cols.first + i, value);
        part.store(d + i, gate * dh * slope);
      });
      return share;
    });
  });
}

// Recomputes h = act(gate) up;  d_gate_pre = g dh up act'(gate),  d_up = g dh act(gate). Null g: ones.
template <class T>
[[gnu::noinline]] void hidden_gated_backward(Activation act, MatrixView<const T> dy,
                                             MatrixView<const T> w_down, const T* b_down, const T* g,
                                             MatrixView<const T> gate, MatrixView<const T> up,
                                             MatrixView<T> h, MatrixView<T> d_gate_pre, MatrixView<T> d_up,
                                             T* d_gate) {
  with_activation(act, [&](auto tag) {
    hidden_backward<T>(dy, w_down, b_down, d_up, d_gate, [&](Index s, Rows cols, T* d) {
      const T scale = g ? g[s] : T(1);
      Vector<T> share{};
      for_each_vector<T>(cols.count, [&](Index i, auto part) {
        const auto [value, slope] = activation<decltype(tag)::value, T>(part.load(gate[s] + cols.first + i));
        const Vector<T> u = part.load(up[s] + cols.first + i), dh = part.load(d + i), out = value * u;
        share += dh * out;
        part.store(h[s] + cols.first + i, out);
        part.store(d_gate_pre[s] + cols.first + i, scale * dh * u * slope);
        part.store(d + i, scale * dh * value);
      });
      return share;
    });
  });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
