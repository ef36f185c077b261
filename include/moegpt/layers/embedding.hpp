#pragma once
// A table of vectors: one for each token id, or one for each position.
#include <moegpt/kernels/embedding.hpp>
#include <moegpt/layers/layer.hpp>

namespace moegpt::inline MOEGPT_BUILD {

template <int Entries, int D, class T = float>
struct Embedding {
  using Scalar = T;

  Weight<T, Entries, D> weight;

  static constexpr auto fields() { return Fields{Field{"weight", &Embedding::weight}}; }

  // y_n = W[id_n] for every token; ids must lie in [0, Entries).
  void forward(const int* ids, Out<D, T> y, const Pass& pass) const {
    kernels::look_up<T>(pass.exec, weight, ids, y);
  }
  // dW[id_n] += dy_n
  void backward(const int* ids, In<D, T> dy, Embedding& grad, const Pass& pass) const {
    if (!grad.weight.empty()) kernels::look_up_backward<T>(pass.exec, ids, dy, grad.weight);
  }

  // y_n += W[position of token n]
  void add_positions(Out<D, T> y, const Pass& pass) const {
    kernels::add_positions<T>(pass.exec, weight, pass.first_position, pass.shape.length, y);
  }
  void add_positions_backward(In<D, T> dy, Embedding& grad, const Pass& pass) const {
    if (!grad.weight.empty())
      kernels::add_positions_backward<T>(pass.exec, dy, pass.first_position, pass.shape.length, grad.weight);
  }
};
static_assert(lists_every_field<Embedding<2, 3>>());

}  // namespace moegpt::inline MOEGPT_BUILD
