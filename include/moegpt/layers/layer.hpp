#pragma once
// What a layer is. In the order they stand in every layer: its weights, fields(), Tape (what forward leaves for
// backward), Scratch (memory inside one call), forward, backward, a static_assert of this concept.
//
// Let f(x, w) = <y, dy> with y the output of forward. backward must leave dx = df/dx and add df/dw to grad. Laws:
//   1. gradients of weights add;  2. dx is overwritten, unless the argument is called dx_sum;
//   3. the tape is const: backward may run twice;  4. backward reads nothing it was not handed;
//   5. no result depends on the number of threads;  6. given its routing, a token's result does not depend on
//   how many or which other tokens share the call.
// An empty dx (or an empty weight in grad) means "not wanted". A layer without need of a tape or of scratch has
// no such argument. testing/gradcheck.hpp examines the derivatives and laws 1 to 5.
#include <moegpt/core/fields.hpp>
#include <moegpt/layers/pass.hpp>

namespace moegpt::inline MOEGPT_BUILD {

struct Nothing {
  void resize(const Pass&) {}
};

template <class L>
concept Layer = requires(const L layer, L grad, typename L::Tape tape, const typename L::Tape read_tape,
                         typename L::Scratch scratch, const Pass pass, In<L::dim_in, typename L::Scalar> x,
                         Out<L::dim_out, typename L::Scalar> y, In<L::dim_out, typename L::Scalar> dy,
                         Out<L::dim_in, typename L::Scalar> dx) {
  L::fields();
  tape.resize(pass);
  scratch.resize(pass);
  requires requires {
    layer.forward(x, y, tape, scratch, pass);
    layer.backward(x, read_tape, dy, dx, grad, scratch, pass);
  } || requires {
    layer.forward(x, y, tape, pass);
    layer.backward(x, read_tape, dy, dx, grad, pass);
  } || requires {
    layer.forward(x, y, pass);
    layer.backward(x, dy, dx, grad, pass);
  };
};

}  // namespace moegpt::inline MOEGPT_BUILD
