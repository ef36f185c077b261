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
// no such argument. testing/gradcheck.hpp examines all of it.
#include <moegpt/core/fields.hpp>
#include <moegpt/layers/pass.hpp>

namespace moegpt::inline MOEGPT_BUILD {

struct Nothing {
  void resize(const Pass&) {}
};

template <class L>
struct LayerTypes {
  using T = typename L::Scalar;
  static In<L::dim_in, T> x();
  static Out<L::dim_out, T> y();
  static In<L::dim_out, T> dy();
  static Out<L::dim_in, T> dx();
};

template <class L>
concept Layer = requires(const L layer, L grad, typename L::Tape tape, const typename L::Tape read_tape,
                         typename L::Scratch scratch, const Pass pass) {
  L::fields();
  tape.resize(pass);
  scratch.resize(pass);
  requires requires {
    layer.forward(LayerTypes<L>::x(), LayerTypes<L>::y(), tape, scratch, pass);
    layer.backward(LayerTypes<L>::x(), read_tape, LayerTypes<L>::dy(), LayerTypes<L>::dx(), grad, scratch, pass);
  } || requires {
    layer.forward(LayerTypes<L>::x(), LayerTypes<L>::y(), tape, pass);
    layer.backward(LayerTypes<L>::x(), read_tape, LayerTypes<L>::dy(), LayerTypes<L>::dx(), grad, pass);
  } || requires {
    layer.forward(LayerTypes<L>::x(), LayerTypes<L>::y(), pass);
    layer.backward(LayerTypes<L>::x(), LayerTypes<L>::dy(), LayerTypes<L>::dx(), grad, pass);
  };
};

}  // namespace moegpt::inline MOEGPT_BUILD
