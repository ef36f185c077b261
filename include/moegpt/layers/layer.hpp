#pragma once
// Layer: concept. Its members, in this order: weights, fields(), Tape (activations that forward saves for
// backward), Scratch (temporary memory of one call), forward, backward, a static_assert of this concept.
//
// With f(x, w) = <y, dy>, y the output of forward, backward computes dx = df/dx and adds df/dw to grad.
// Invariants:
//   1. weight gradients accumulate;  2. an Out is overwritten, a Sum is added to;
//   3. the tape is const: backward may run twice;  4. backward reads its arguments only;
//   5. no result depends on the number of threads;  6. given its routing, a token's result does not depend on
//   the other tokens of the call.
// An empty dx or weight in grad is not required. Layers without tape or scratch omit these arguments;
// forward() and backward() below call any layer. y may be x, and dx may be dy, only if a layer states it.
// testing/gradcheck.hpp checks derivatives and invariants 1 to 5.
#include <moegpt/core/fields.hpp>
#include <moegpt/layers/pass.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct Nothing {
  void resize(const Pass&) {}
};

namespace detail {
template <class L, class Tape, class Scratch>
concept ForwardOf =
    requires(const L layer, In<L::dim_in, typename L::Scalar> x, Out<L::dim_out, typename L::Scalar> y,
             Tape tape, Scratch scratch, const Pass pass) {
      requires requires { layer.forward(x, y, tape, scratch, pass); } ||
                   requires { layer.forward(x, y, tape, pass); } || requires { layer.forward(x, y, pass); };
    };
template <class L, class Dx>
concept BackwardInto = requires(const L layer, In<L::dim_in, typename L::Scalar> x,
                                const typename L::Tape tape, In<L::dim_out, typename L::Scalar> dy, Dx dx,
                                L grad, typename L::Scratch scratch, const Pass pass) {
  requires requires { layer.backward(x, tape, dy, dx, grad, scratch, pass); } || requires {
    layer.backward(x, tape, dy, dx, grad, pass);
  } || requires { layer.backward(x, dy, dx, grad, pass); };
};
}  // namespace detail

template <class L>
concept Layer =
    requires(typename L::Tape tape, typename L::Scratch scratch, const Pass pass) {
      L::fields();
      tape.resize(pass);
      scratch.resize(pass);
    } && detail::ForwardOf<L, typename L::Tape, typename L::Scratch> &&
    detail::BackwardInto<L, Out<L::dim_in, typename L::Scalar>>;

// A layer whose backward can also add to dx.
template <class L>
concept AddsToDx = Layer<L> && detail::BackwardInto<L, Sum<L::dim_in, typename L::Scalar>>;

// What a layer reads besides x, such as the output of an encoder: token t of sequence b is row b * length +
// t.
template <int D, class T>
struct Memory {
  In<D, T> tokens;
  Index length = 0;                // of each sequence
  const Index* lengths = nullptr;  // [batch] tokens that are not padding; null: all
};

// A layer that also reads a memory with M features. Its backward adds to the gradient of the memory, because
// every layer of a decoder reads the same one.
template <class L, int M, class T = typename L::Scalar>
concept LayerWithMemory =
    requires(const L layer, L grad, In<L::dim_in, T> x, Memory<M, T> memory, Out<L::dim_out, T> y,
             typename L::Tape tape, const typename L::Tape read_tape, typename L::Scratch scratch,
             In<L::dim_out, T> dy, Out<L::dim_in, T> dx, Sum<M, T> d_memory, const Pass pass) {
      layer.forward(x, memory, y, tape, scratch, pass);
      layer.backward(x, memory, read_tape, dy, dx, d_memory, grad, scratch, pass);
    };

// Calls layer.forward with the arguments that it takes. x [tokens, dim_in], y [tokens, dim_out].
template <class L, class Tape, class Scratch>
void forward(const L& layer, In<L::dim_in, typename L::Scalar> x, Out<L::dim_out, typename L::Scalar> y,
             Tape& tape, Scratch& scratch, const Pass& pass) {
  if constexpr (requires { layer.forward(x, y, tape, scratch, pass); })
    layer.forward(x, y, tape, scratch, pass);
  else if constexpr (requires { layer.forward(x, y, tape, pass); })
    layer.forward(x, y, tape, pass);
  else
    layer.forward(x, y, pass);
}
namespace detail {
template <class L, class Dx, class Tape, class Scratch>
void backward(const L& layer, In<L::dim_in, typename L::Scalar> x, const Tape& tape,
              In<L::dim_out, typename L::Scalar> dy, Dx dx, L& grad, Scratch& scratch, const Pass& pass) {
  if constexpr (requires { layer.backward(x, tape, dy, dx, grad, scratch, pass); })
    layer.backward(x, tape, dy, dx, grad, scratch, pass);
  else if constexpr (requires { layer.backward(x, tape, dy, dx, grad, pass); })
    layer.backward(x, tape, dy, dx, grad, pass);
  else
    layer.backward(x, dy, dx, grad, pass);
}
}  // namespace detail
// Calls layer.backward with the arguments that it takes. Overwrites dx, or adds to it if it is a Sum.
template <class L, class Tape, class Scratch>
void backward(const L& layer, In<L::dim_in, typename L::Scalar> x, const Tape& tape,
              In<L::dim_out, typename L::Scalar> dy, Out<L::dim_in, typename L::Scalar> dx, L& grad,
              Scratch& scratch, const Pass& pass) {
  detail::backward(layer, x, tape, dy, dx, grad, scratch, pass);
}
template <AddsToDx L, class Tape, class Scratch>
void backward(const L& layer, In<L::dim_in, typename L::Scalar> x, const Tape& tape,
              In<L::dim_out, typename L::Scalar> dy, Sum<L::dim_in, typename L::Scalar> dx, L& grad,
              Scratch& scratch, const Pass& pass) {
  detail::backward(layer, x, tape, dy, dx, grad, scratch, pass);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
