#pragma once
// Linear expert (Jacobs et al. 1991): y = W x + b. If DOut is not D, a layer after the MoE layer must map
// DOut to D (moe/projected_mixture.hpp).
#include <moegpt/layers/expert.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <int D, int DOut = D, class N = float, bool HasBias = true>
struct LinearExpert {
  static_assert(D >= 1 && DOut >= 1, "LinearExpert: its widths must be at least 1");
  using T = ScalarOf<N>;
  using Scalar = T;
  using Numbers = N;
  static constexpr int dim = D, dim_out = DOut;

  Linear<D, DOut, N, HasBias> map;

  static constexpr auto fields() { return Fields{Field{"", &LinearExpert::map}}; }
  struct Tape {
    void resize(Index) {}
  };
  struct Scratch {
    Tokens<D, T> h;  // W^T dy
    void resize(Index slot_count) { h.resize(slot_count); }
  };

  void forward(Gathered<D, T> x, Out<DOut, T> y, Tape&, Scratch& scratch, Rows rows) const {
    check_expert(x.count, y.count, rows, scratch.h.count(), scratch.h.count());
    kernels::affine<T, StorageOf<N>>({}, x, map.weight, map.bias.data(), y);
  }

  // With h = W^T dy:  d_gate = <dy, W x + b> = <h, x> + <dy, b>,  dx = g h
  void backward(Gathered<D, T> x, const Tape&, In<DOut, T> dy, const T* gate, Out<D, T> dx, T* d_gate,
                Scratch& scratch, Rows rows) const {
    check_trains<N>();
    if (dx.empty() && !d_gate) return;
    const auto h = scratch.h.rows(rows);
    kernels::affine_backward<T>({}, dy, map.weight, h, false);
    for (Index s = 0; s < rows.count; ++s) {
      if (d_gate)
        d_gate[s] =
            kernels::dot(h[s], x[s], D) + (HasBias ? kernels::dot(dy[s], map.bias.data(), DOut) : T(0));
      if (!dx.empty()) kernels::scale(D, gate ? gate[s] : T(1), h[s], dx[s]);
    }
  }

  static constexpr Index weight_parts = decltype(map)::weight_parts;
  void backward_weights(Index part, Gathered<D, T> x, const Tape&, In<DOut, T> dy, LinearExpert& grad,
                        const Scratch&, Rows) const {
    map.backward_weights(part, x, dy, grad.map);
  }
};
static_assert(lists_every_field<LinearExpert<2, 3>>());
static_assert(ExpertNetwork<LinearExpert<2, 3>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
