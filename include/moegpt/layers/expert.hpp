#pragma once
// Feed-forward network of one expert: y = down(act(up x)), or gated: y = down(act(gate x) * (up x)).
// A call works on one thread, unless its forward gets an Exec, on some rows of buffers that all experts
// share: x, y and dx have these rows, tape and scratch all slots. Calls for one expert may run in parallel.
// Activations are fused into GEMM.
#include <moegpt/kernels/feed_forward.hpp>
#include <moegpt/layers/linear.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Argument checks of an expert: once per call, because an expert may be used alone.
[[gnu::noinline]] inline void check_expert(Index x, Index y, Rows rows, Index tape, Index scratch) {
  const Index end = rows.first + rows.count;
  check(x == rows.count && y == rows.count && rows.first >= 0 && end <= tape && end <= scratch,
        "an expert got ", x, " tokens and room for ", y, " in y, for ", rows.count, " rows from ", rows.first,
        " on of a tape with ", tape, " slots and a scratch with ", scratch,
        ": all must fit; call tape.resize(slot_count) and scratch.resize(slot_count) first");
}

// Rows per work item of an expert, of `slot_count` rows in all: many enough to amortise packing of weights,
// few enough for balance between threads. Does not affect results.
inline constexpr Index expert_rows(Index slot_count) {
  return slot_count < 8 * 96 ? 96 : slot_count > 8 * 256 ? 256 : slot_count / 8;
}

// The output width: dim_out if X has one, else dim.
template <class X>
constexpr int output_dim() {
  if constexpr (requires { X::dim_out; })
    return X::dim_out;
  else
    return X::dim;
}

// Work on rows of one expert by one thread. Shapes and routing determine it, threads do not. `expert` is its
// number in the layer, or -1 for a dense or shared network. The functions of an expert take Rows, or an
// ExpertTask if they need the number.
struct ExpertTask {
  int expert = -1;
  Rows rows{};
  operator Rows() const { return rows; }
};

// The third argument of an expert: its scalar, or with the storage of its weights, Stored<...>.
template <class X>
struct NumbersOf {
  using type = typename X::Scalar;
};
template <class X>
  requires requires { typename X::Numbers; }
struct NumbersOf<X> {
  using type = typename X::Numbers;
};

// An expert network. y_s = expert(x_s); dy_s is the gradient of g_s y_s, with gate g_s:
//   backward           d_gate_s = <dy_s, y_s>,  dx_s = g_s (dy/dx)^T dy_s;  saves to scratch for the next one
//   backward_weights   adds part `part` of the weight gradients; its dy_s is already multiplied by g_s
// Null gate: 1. Null d_gate, empty dx: not required. x may be gathered.
template <class X>
concept ExpertNetwork =
    requires(const X expert, X grad, typename X::Tape tape, const typename X::Tape read_tape,
             typename X::Scratch scratch, const typename X::Scratch read_scratch, ExpertTask task,
             Gathered<X::dim, typename X::Scalar> x, In<output_dim<X>(), typename X::Scalar> dy,
             Out<output_dim<X>(), typename X::Scalar> y, Out<X::dim, typename X::Scalar> dx,
             typename X::Scalar* gate) {
      X::fields();
      { X::weight_parts } -> std::convertible_to<Index>;
      tape.resize(Index{});
      scratch.resize(Index{});
      expert.forward(x, y, tape, scratch, task);
      expert.backward(x, read_tape, dy, gate, dx, gate, scratch, task);
      expert.backward_weights(Index{}, x, read_tape, dy, grad, read_scratch, task);
    };

// An expert whose forward takes an Exec as well: several threads can share it.
template <class X>
concept ShareableExpert =
    ExpertNetwork<X> &&
    requires(const X expert, typename X::Tape tape, typename X::Scratch scratch, Rows rows, const Exec exec,
             Gathered<X::dim, typename X::Scalar> x,
             Out<output_dim<X>(), typename X::Scalar> y) { expert.forward(x, y, tape, scratch, rows, exec); };

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
    Tokens<Dff, T> pre;  // up x
    void resize(Index slot_count) { pre.resize(slot_count); }
  };
  struct Scratch {
    Tokens<Dff, T> act, d_pre;  // act(pre), recomputed in backward
    [[gnu::noinline]] void resize(Index slot_count) {
      act.resize(slot_count);
      d_pre.resize(slot_count);
    }
  };

  void forward(Gathered<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, Rows rows,
               const Exec& exec = {}) const {
    check_expert(x.count, y.count, rows, tape.pre.count(), scratch.act.count());
    const auto act = scratch.act.rows(rows);
    kernels::hidden<T, StorageOf<N>>(exec, A, x, up.weight, up.bias.data(), tape.pre.rows(rows), act);
    down.forward(act, y, {.exec = exec});
  }

  // d_act = W_down^T dy,  d_pre = g d_act act'(pre),  dx = W_up^T d_pre
  void backward(Gathered<D, T>, const Tape& tape, In<D, T> dy, const T* gate, Out<D, T> dx, T* d_gate,
                Scratch& scratch, Rows rows) const {
    check_trains<N>();
    const auto d_pre = scratch.d_pre.rows(rows);
    kernels::hidden_backward<T>(A, dy, down.weight, down.bias.data(), gate, tape.pre.rows(rows),
                                scratch.act.rows(rows), d_pre, d_gate);
    if (!dx.empty()) kernels::affine_backward<T>({}, d_pre, up.weight, dx, false);
  }

  static constexpr Index weight_parts = decltype(up)::weight_parts + decltype(down)::weight_parts;
  void backward_weights(Index part, Gathered<D, T> x, const Tape&, In<D, T> dy, Expert& grad,
                        const Scratch& scratch, Rows rows) const {
    if (part < up.weight_parts)
      up.backward_weights(part, x, scratch.d_pre.rows(rows), grad.up);
    else
      down.backward_weights(part - up.weight_parts, scratch.act.rows(rows), dy, grad.down);
  }
};
static_assert(lists_every_field<Expert<2, 3>>());
static_assert(ExpertNetwork<Expert<2, 3>>);

// Gated linear unit (Shazeer 2020); SwiGLU with the default activation.
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
    Tokens<Dff, T> gate, up;  // gate x, up x
    [[gnu::noinline]] void resize(Index slot_count) {
      gate.resize(slot_count);
      up.resize(slot_count);
    }
  };
  struct Scratch {
    Tokens<Dff, T> act, d_gate, d_up;  // act(gate x) * (up x), recomputed in backward
    [[gnu::noinline]] void resize(Index slot_count) {
      act.resize(slot_count);
      d_gate.resize(slot_count);
      d_up.resize(slot_count);
    }
  };

  void forward(Gathered<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, Rows rows,
               const Exec& exec = {}) const {
    check_expert(x.count, y.count, rows, tape.gate.count(), scratch.act.count());
    const auto g = tape.gate.rows(rows), u = tape.up.rows(rows), act = scratch.act.rows(rows);
    kernels::affine<T, StorageOf<N>>(exec, x, gate.weight, gate.bias.data(), g);
    kernels::hidden_gated<T, StorageOf<N>>(exec, A, x, up.weight, up.bias.data(), g, u, act);
    down.forward(act, y, {.exec = exec});
  }

  // d_act = W_down^T dy,  d_gate = g d_act up act'(gate),  d_up = g d_act act(gate)
  void backward(Gathered<D, T>, const Tape& tape, In<D, T> dy, const T* slot_gate, Out<D, T> dx,
                T* d_slot_gate, Scratch& scratch, Rows rows) const {
    check_trains<N>();
    const auto d_gate = scratch.d_gate.rows(rows), d_up = scratch.d_up.rows(rows);
    kernels::hidden_gated_backward<T>(A, dy, down.weight, down.bias.data(), slot_gate, tape.gate.rows(rows),
                                      tape.up.rows(rows), scratch.act.rows(rows), d_gate, d_up, d_slot_gate);
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

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
