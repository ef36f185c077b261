#pragma once
// Embedding table [Entries, D]: one vector per token id, or per position.
#include <moegpt/kernels/embedding.hpp>
#include <moegpt/layers/layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

[[gnu::noinline]] inline void check_entries(const int* ids, Index count, int entries) {
  for (Index n = 0; n < count; ++n)
    check(ids[n] >= 0 && ids[n] < entries, "Embedding: token ", n, " has id ", ids[n], ", expected 0 .. ",
          entries - 1);
}
[[gnu::noinline]] inline void check_positions(Index tokens, int entries, const Pass& pass) {
  pass.check_fits(tokens, tokens);
  check(pass.most_positions() <= entries, "Embedding: positions up to ", pass.most_positions(),
        ", but the table holds ", entries);
}

template <int Entries, int D, class N = float>
struct Embedding {
  using T = ScalarOf<N>;
  using Scalar = T;

  Weight<StorageOf<N>, Entries, D> weight;

  static constexpr auto fields() { return Fields{Field{"weight", &Embedding::weight, Start::embedding}}; }

  // y_n = W[id_n];  ids [tokens]. std::invalid_argument for an id outside [0, Entries).
  void forward(const int* ids, Out<D, T> y, const Pass& pass) const {
    check_entries(ids, y.count, Entries);
    kernels::look_up<T, StorageOf<N>>(pass.exec, weight, ids, y);
  }
  // dW[id_n] += dy_n
  void backward(const int* ids, In<D, T> dy, Embedding& grad, const Pass& pass) const {
    check_trains<N>();
    check_entries(ids, dy.count, Entries);
    if (!grad.weight.empty()) kernels::look_up_backward<T>(pass.exec, ids, dy, grad.weight);
  }

  // y_n += W[position of token n]. std::invalid_argument for a position >= Entries, except of padding.
  void add_positions(Out<D, T> y, const Pass& pass) const {
    check_positions(y.count, Entries, pass);
    kernels::add_positions<T>(pass.exec, weight, pass.positions(), y);
  }
  void add_positions_backward(In<D, T> dy, Embedding& grad, const Pass& pass) const {
    check_trains<N>();
    check_positions(dy.count, Entries, pass);
    if (!grad.weight.empty())
      kernels::add_positions_backward<T>(pass.exec, dy, pass.positions(), grad.weight);
  }
};
static_assert(lists_every_field<Embedding<2, 3>>());

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
