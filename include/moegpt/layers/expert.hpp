#pragma once
// The feed-forward network of one expert: y = down(act(up x)), or gated: y = down(act(gate x) * (up x)).
//
// Each call works on one thread unless it is given more, on rows of buffers that all experts share, so that a layer can give (expert,
// rows) tasks to threads as it likes, several of one expert too: tape and scratch are as long as all slots;
// x, y and dx are the rows.
// Activations happen inside the products, on columns that are still in cache.
#include <moegpt/kernels/feed_forward.hpp>
#include <moegpt/layers/linear.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// Argument checks of an expert, which may be used alone: once per call.
[[gnu::noinline]] inline void check_expert(Index x, Index y, Rows rows, Index tape, Index scratch) {
  const Index end = rows.first + rows.count;
  check(x == rows.count && y == rows.count && rows.first >= 0 && end <= tape && end <= scratch,
        "an expert got ", x, " tokens and room for ", y, " in y, for ", rows.count, " rows from ", rows.first,
        " on of a tape with ", tape, " slots and a scratch with ", scratch,
        ": all must fit; call tape.resize(slot_count) and scratch.resize(slot_count) first");
}

// Rows that an expert works on together, of `slot_count` rows in all: many enough to be worth packing its weights, few
// enough to share out. Part of no result.
inline constexpr Index expert_rows(Index slot_count) { return slot_count < 8 * 96 ? 96 : slot_count > 8 * 256 ? 256 : slot_count / 8; }

// An expert maps D = dim to D, unless it has a dim_out.
template <class X>
constexpr int output_dim() {
  if constexpr (requires { X::dim_out; }) return X::dim_out;
  else return X::dim;
}

// The numbers of an expert: its scalar and the storage of its weights.
template <class X>
struct NumbersOf { using type = typename X::Scalar; };
template <class X>
  requires requires { typename X::Numbers; }
struct NumbersOf<X> { using type = typename X::Numbers; };

// With y_s = expert(x_s) and the gate g_s that y_s is multiplied with, where dy_s is the gradient of g_s y_s:
//   backward           d_gate_s = <dy_s, y_s>, dx_s = g_s (dy/dx)^T dy_s, and into scratch what the next one needs
//   backward_weights   part `part` of the weight gradients; dy_s already has its gate
// A null gate counts as ones, a null d_gate and an empty dx are not wanted. x may be gathered.
template <class X>
concept ExpertNetwork = requires(const X expert, X grad, typename X::Tape tape, const typename X::Tape read_tape,
                                 typename X::Scratch scratch, const typename X::Scratch read_scratch, Rows rows,
                                 Gathered<X::dim, typename X::Scalar> x, In<output_dim<X>(), typename X::Scalar> dy,
                                 Out<output_dim<X>(), typename X::Scalar> y, Out<X::dim, typename X::Scalar> dx,
                                 typename X::Scalar* numbers) {
  X::fields();
  { X::weight_parts } -> std::convertible_to<Index>;
  tape.resize(Index{});
  scratch.resize(Index{});
  expert.forward(x, y, tape, scratch, rows);
  expert.backward(x, read_tape, dy, numbers, dx, numbers, scratch, rows);
  expert.backward_weights(Index{}, x, read_tape, dy, grad, read_scratch, rows);
};

// An expert whose forward takes an Exec as well: several threads can share it.
template <class X>
concept ShareableExpert = ExpertNetwork<X> &&
    requires(const X expert, typename X::Tape tape, typename X::Scratch scratch, Rows rows, const Exec exec,
             Gathered<X::dim, typename X::Scalar> x, Out<output_dim<X>(), typename X::Scalar> y) {
  expert.forward(x, y, tape, scratch, rows, exec);
};

template <int D, int Dff, Activation A = Activation::gelu, class N = float, bool HasBias = true>
struct Expert {
  static_assert(D >= 1 && Dff >= 1, "Expert: its widths must be at least 1");
  using T = ScalarOf<N>;
  using Scalar = T;
  using Numbers = N;
  static constexpr int dim = D, hidden = Dff;

  Linear<D, Dff, N, HasBias> up;
  Linear<Dff, D, N, HasBias> down;

  static constexpr auto fields() {
    return Fields{Field{"up", &Expert::up}, Field{"down", &Expert::down, Start::residual}};
  }
  struct Tape {
    Tokens<Dff, T> pre;          // up x
    void resize(Index slot_count) { pre.resize(slot_count); }
  };
  struct Scratch {
    Tokens<Dff, T> act, d_pre;   // act(pre), computed again in backward
    [[gnu::noinline]] void resize(Index slot_count) {
      act.resize(slot_count);
      d_pre.resize(slot_count);
    }
  };

  void forward(Gathered<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, Rows rows, const Exec& exec = {}) const {
    check_expert(x.count, y.count, rows, tape.pre.count(), scratch.act.count());
    const auto act = scratch.act.rows(rows);
    kernels::hidden<T, StorageOf<N>>(exec, A, x, up.weight, up.bias.data(), tape.pre.rows(rows), act);
    down.forward(act, y, {.exec = exec});
  }

  // d_act = W_down^T dy,  d_pre = g d_act act'(pre),  dx = W_up^T d_pre
  void backward(Gathered<D, T>, const Tape& tape, In<D, T> dy, const T* gate, Out<D, T> dx, T* d_gate, Scratch& scratch,
                Rows rows) const {
    check_trains<N>();
    const auto d_pre = scratch.d_pre.rows(rows);
    kernels::hidden_backward<T>(A, dy, down.weight, down.bias.data(), gate, tape.pre.rows(rows), scratch.act.rows(rows),
                                d_pre, d_gate);
    if (!dx.empty()) kernels::affine_backward<T>({}, d_pre, up.weight, dx, false);
  }

  static constexpr Index weight_parts = decltype(up)::weight_parts + decltype(down)::weight_parts;
  void backward_weights(Index part, Gathered<D, T> x, const Tape&, In<D, T> dy, Expert& grad, const Scratch& scratch,
                        Rows rows) const {
    if (part < up.weight_parts)
      up.backward_weights(part, x, scratch.d_pre.rows(rows), grad.up);
    else
      down.backward_weights(part - up.weight_parts, scratch.act.rows(rows), dy, grad.down);
  }
};
static_assert(lists_every_field<Expert<2, 3>>());
static_assert(ExpertNetwork<Expert<2, 3>>);

// SwiGLU (Shazeer 2020) with the default activation.
template <int D, int Dff, Activation A = Activation::silu, class N = float, bool HasBias = false>
struct GatedExpert {
  static_assert(D >= 1 && Dff >= 1, "GatedExpert: its widths must be at least 1");
  using T = ScalarOf<N>;
  using Scalar = T;
  using Numbers = N;
  static constexpr int dim = D, hidden = Dff;

  Linear<D, Dff, N, HasBias> gate;
  Linear<D, Dff, N, HasBias> up;
  Linear<Dff, D, N, HasBias> down;

  static constexpr auto fields() {
    return Fields{Field{"gate", &GatedExpert::gate}, Field{"up", &GatedExpert::up},
                      Field{"down", &GatedExpert::down, Start::residual}};
  }
  struct Tape {
    Tokens<Dff, T> gate, up;           // gate x, up x
    [[gnu::noinline]] void resize(Index slot_count) {
      gate.resize(slot_count);
      up.resize(slot_count);
    }
  };
  struct Scratch {
    Tokens<Dff, T> act, d_gate, d_up;  // act(gate x) * (up x), computed again in backward
    [[gnu::noinline]] void resize(Index slot_count) {
      act.resize(slot_count);
      d_gate.resize(slot_count);
      d_up.resize(slot_count);
    }
  };

  void forward(Gathered<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, Rows rows, const Exec& exec = {}) const {
    check_expert(x.count, y.count, rows, tape.gate.count(), scratch.act.count());
    const auto g = tape.gate.rows(rows), u = tape.up.rows(rows), act = scratch.act.rows(rows);
    kernels::affine<T, StorageOf<N>>(exec, x, gate.weight, gate.bias.data(), g);
    kernels::hidden_gated<T, StorageOf<N>>(exec, A, x, up.weight, up.bias.data(), g, u, act);
    down.forward(act, y, {.exec = exec});
  }

  // d_act = W_down^T dy,  d_gate = g d_act up act'(gate),  d_up = g d_act act(gate)
  void backward(Gathered<D, T>, const Tape& tape, In<D, T> dy, const T* weight, Out<D, T> dx, T* d_weight,
                Scratch& scratch, Rows rows) const {
    check_trains<N>();
    const auto d_gate = scratch.d_gate.rows(rows), d_up = scratch.d_up.rows(rows);
    kernels::hidden_gated_backward<T>(A, dy, down.weight, down.bias.data(), weight, tape.gate.rows(rows),
                                      tape.up.rows(rows), scratch.act.rows(rows), d_gate, d_up, d_weight);
    if (dx.empty()) return;
    kernels::affine_backward<T>({}, d_gate, gate.weight, dx, false);
    kernels::affine_backward<T>({}, d_up, up.weight, dx, true);
  }

  static constexpr Index weight_parts = 2 * decltype(up)::weight_parts + decltype(down)::weight_parts;
  void backward_weights(Index part, Gathered<D, T> x, const Tape&, In<D, T> dy, GatedExpert& grad,
                        const Scratch& scratch, Rows rows) const {
    constexpr Index each = decltype(up)::weight_parts;
    if (part < each)
      gate.backward_weights(part, x, scratch.d_gate.rows(rows), grad.gate);
    else if (part < 2 * each)
      up.backward_weights(part - each, x, scratch.d_up.rows(rows), grad.up);
    else
      down.backward_weights(part - 2 * each, scratch.act.rows(rows), dy, grad.down);
  }
};
static_assert(lists_every_field<GatedExpert<2, 3>>());
static_assert(ExpertNetwork<GatedExpert<2, 3>>);

}  // namespace moegpt::inline MOEGPT_BUILD
