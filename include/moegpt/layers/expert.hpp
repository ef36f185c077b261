#pragma once
// The feed-forward network of one expert: y = down(act(up x)), or gated: y = down(act(gate x) * (up x)).
//
// An expert works on one thread on rows of buffers it shares with other experts, so that a layer can give
// (expert, rows) pairs to threads as it likes: tape and scratch are as long as all slots, x and y are the rows.
#include <moegpt/kernels/activations.hpp>
#include <moegpt/layers/linear.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// An expert may be used alone: its door is checked, once per call.
[[gnu::noinline]] inline void check_expert(Index x, Index y, Rows rows, Index slots) {
  check(x == rows.count && y == rows.count && rows.first >= 0 && rows.first + rows.count <= slots,
        "an expert got ", x, " tokens and room for ", y, " in y, for ", rows.count, " rows from ", rows.first,
        " on of a tape with ", slots, " slots: all three must fit; call tape.resize(slots) first");
}

template <class X>
concept ExpertNetwork = requires(const X expert, X grad, typename X::Tape tape, const typename X::Tape read_tape,
                                 typename X::Scratch scratch, const typename X::Scratch read_scratch, Rows rows,
                                 In<X::dim, typename X::Scalar> x, Out<X::dim, typename X::Scalar> y) {
  X::fields();
  tape.resize(Index{});
  scratch.resize(Index{});
  expert.forward(x, y, tape, rows);
  expert.backward(x, read_tape, x, y, scratch, rows);
  expert.backward_weights(x, read_tape, x, grad, read_scratch, rows);
};

template <int D, int Dff, Activation A = Activation::gelu, class T = float, bool HasBias = true>
struct Expert {
  using Scalar = T;
  static constexpr int dim = D, hidden = Dff;

  Linear<D, Dff, T, HasBias> up;
  Linear<Dff, D, T, HasBias> down;

  static constexpr auto fields() { return Fields{Field{"up", &Expert::up}, Field{"down", &Expert::down}}; }
  struct Tape {
    Tokens<Dff, T> pre, act;   // up x, and act of it
    [[gnu::noinline]] void resize(Index slots) {
      pre.resize(slots);
      act.resize(slots);
    }
  };
  struct Scratch {
    Tokens<Dff, T> d_pre;
    void resize(Index slots) { d_pre.resize(slots); }
  };

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Rows rows) const {
    check_expert(x.count, y.count, rows, tape.pre.count());
    const auto pre = tape.pre.rows(rows), act = tape.act.rows(rows);
    up.forward(x, pre, one_thread);
    kernels::activate(A, pre.data, act.data, rows.count * Dff);
    down.forward(act, y, one_thread);
  }

  // dx, and in scratch what backward_weights needs of it.
  void backward(In<D, T>, const Tape& tape, In<D, T> dy, Out<D, T> dx, Scratch& scratch, Rows rows) const {
    const auto pre = tape.pre.rows(rows);
    const auto d_pre = scratch.d_pre.rows(rows);
    kernels::affine_backward<T>({}, dy, down.weight, d_pre, false);
    kernels::activate_backward(A, pre.data, d_pre.data, d_pre.data, rows.count * Dff);
    if (!dx.empty()) kernels::affine_backward<T>({}, d_pre, up.weight, dx, false);
  }
  void backward_weights(In<D, T> x, const Tape& tape, In<D, T> dy, Expert& grad, const Scratch& scratch,
                        Rows rows) const {
    down.backward_weights(tape.act.rows(rows), dy, grad.down, one_thread);
    up.backward_weights(x, scratch.d_pre.rows(rows), grad.up, one_thread);
  }
};
static_assert(lists_every_field<Expert<2, 3>>());
static_assert(ExpertNetwork<Expert<2, 3>>);

// SwiGLU (Shazeer 2020) with the default activation.
template <int D, int Dff, Activation A = Activation::silu, class T = float, bool HasBias = false>
struct GatedExpert {
  using Scalar = T;
  static constexpr int dim = D, hidden = Dff;

  Linear<D, Dff, T, HasBias> gate;
  Linear<D, Dff, T, HasBias> up;
  Linear<Dff, D, T, HasBias> down;

  static constexpr auto fields() {
    return Fields{Field{"gate", &GatedExpert::gate}, Field{"up", &GatedExpert::up},
                      Field{"down", &GatedExpert::down}};
  }
  struct Tape {
    Tokens<Dff, T> gate, up, act;   // gate x, up x, and act(gate x) * (up x)
    [[gnu::noinline]] void resize(Index slots) {
      gate.resize(slots);
      up.resize(slots);
      act.resize(slots);
    }
  };
  struct Scratch {
    Tokens<Dff, T> d_gate, d_up;
    [[gnu::noinline]] void resize(Index slots) {
      d_gate.resize(slots);
      d_up.resize(slots);
    }
  };

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Rows rows) const {
    check_expert(x.count, y.count, rows, tape.gate.count());
    const auto g = tape.gate.rows(rows), u = tape.up.rows(rows), act = tape.act.rows(rows);
    gate.forward(x, g, one_thread);
    up.forward(x, u, one_thread);
    kernels::activate_gated(A, g.data, u.data, act.data, rows.count * Dff);
    down.forward(act, y, one_thread);
  }

  void backward(In<D, T>, const Tape& tape, In<D, T> dy, Out<D, T> dx, Scratch& scratch, Rows rows) const {
    const auto g = tape.gate.rows(rows), u = tape.up.rows(rows);
    const auto d_gate = scratch.d_gate.rows(rows), d_up = scratch.d_up.rows(rows);
    kernels::affine_backward<T>({}, dy, down.weight, d_up, false);   // d act
    kernels::activate_gated_backward(A, g.data, u.data, d_up.data, d_gate.data, d_up.data, rows.count * Dff);
    if (dx.empty()) return;
    kernels::affine_backward<T>({}, d_gate, gate.weight, dx, false);
    kernels::affine_backward<T>({}, d_up, up.weight, dx, true);
  }
  void backward_weights(In<D, T> x, const Tape& tape, In<D, T> dy, GatedExpert& grad, const Scratch& scratch,
                        Rows rows) const {
    down.backward_weights(tape.act.rows(rows), dy, grad.down, one_thread);
    gate.backward_weights(x, scratch.d_gate.rows(rows), grad.gate, one_thread);
    up.backward_weights(x, scratch.d_up.rows(rows), grad.up, one_thread);
  }
};
static_assert(lists_every_field<GatedExpert<2, 3>>());
static_assert(ExpertNetwork<GatedExpert<2, 3>>);

}  // namespace moegpt::inline MOEGPT_BUILD
