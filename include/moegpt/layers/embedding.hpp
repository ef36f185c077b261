#pragma once
// A table of vectors: one for each token id, or one for each position.
#include <moegpt/layers/layer.hpp>

namespace moegpt::inline MOEGPT_BUILD {

template <int Entries, int D, class T = float>
struct Embedding {
  using Scalar = T;

  Weight<T, Entries, D> weight;

  static constexpr auto fields() { return std::tuple{Field{"weight", &Embedding::weight}}; }

  // y_n = W[id_n] for every token; ids must lie in [0, Entries).
  void forward(const int* ids, Out<D, T> y, const Pass& pass) const {
    for_each_piece(pass.exec, y.count, token_piece, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n)
        std::memcpy(y[n], weight.data() + Index{ids[n]} * D, D * sizeof(T));
    });
  }
  // dW[id_n] += dy_n, in the order of tokens: a piece owns a range of features.
  void backward(const int* ids, In<D, T> dy, Embedding& grad, const Pass& pass) const {
    if (grad.weight.empty()) return;
    for_each_piece(pass.exec, D, 32, [&](Rows features) {
      for (Index n = 0; n < dy.count; ++n) {
        T* row = grad.weight.data() + Index{ids[n]} * D;
        for (Index i = features.first; i < features.first + features.count; ++i) row[i] += dy[n][i];
      }
    });
  }

  // y_n += W[position of token n]
  void add_positions(Out<D, T> y, const Pass& pass) const {
    for_each_piece(pass.exec, y.count, token_piece, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n) {
        const T* row = weight.data() + (pass.first_position + n % pass.shape.length) * D;
        for (Index i = 0; i < D; ++i) y[n][i] += row[i];
      }
    });
  }
  void add_positions_backward(In<D, T> dy, Embedding& grad, const Pass& pass) const {
    if (grad.weight.empty()) return;
    pass.exec.parallel_for(pass.shape.length, [&](Index t) {
      T* row = grad.weight.data() + (pass.first_position + t) * D;
      for (Index b = 0; b < pass.shape.batch; ++b)
        for (Index i = 0; i < D; ++i) row[i] += dy[b * pass.shape.length + t][i];
    });
  }
};
static_assert(lists_every_field<Embedding<2, 3>>());

}  // namespace moegpt::inline MOEGPT_BUILD
