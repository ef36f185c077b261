#pragma once
// Rotary positions of the tokens of a pass: a table of their angles, and rotation of queries and keys by
// them.
#include <moegpt/core/buffer.hpp>
#include <moegpt/kernels/multi_head.hpp>
#include <moegpt/layers/pass.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The frequencies that a model's options state. std::invalid_argument if the scaling needs an option that is
// not given.
inline kernels::Rotary rotary_of(Index width, Pairing pairing, RotaryScaling scaling, const ModelOptions& o) {
  const bool needs_context = scaling == RotaryScaling::yarn || scaling == RotaryScaling::llama3;
  check(!needs_context || (o.rotary_context > 0 && o.rotary_base > 1), "rotary_context is ", o.rotary_context,
        " and rotary_base ", o.rotary_base,
        ": this rotary_scaling needs the context of training, in tokens, and a base above 1");
  return {.width = width,
          .pairing = pairing,
          .scaling = scaling,
          .base = o.rotary_base,
          .factor = o.rotary_factor,
          .context = o.rotary_context,
          .fast = o.rotary_fast,
          .slow = o.rotary_slow,
          .magnitude = o.rotary_magnitude};
}

template <class T>
class RotaryTable {
 public:
  // width: features of a head that are rotated; 0: none.
  void resize(Index width, const Pass& pass) {
    frequencies_.resize(width / 2);
    cosine_.resize(pass.tokens() * (width / 2));
    sine_.resize(pass.tokens() * (width / 2));
  }
  // After resize with the same width.
  void compute(const kernels::Rotary& rotary, const Pass& pass) {
    rotary_ = rotary;
    kernels::rotary_table<T>(pass.exec, pass.positions(), rows(pass), rotary, frequencies_.data(),
                             cosine_.data(), sine_.data());
  }
  // x: [tokens, heads of `width` features], in place.
  void rotate(MatrixView<T> x, Index width, const Pass& pass) const { rotate(x, width, pass, T(1)); }
  // The inverse rotation, which is backward.
  void rotate_back(MatrixView<T> x, Index width, const Pass& pass) const { rotate(x, width, pass, T(-1)); }

 private:
  // One per position if all sequences start at the same one, else one per token.
  static Index rows(const Pass& pass) { return pass.first_positions ? pass.tokens() : pass.shape.length; }
  void rotate(MatrixView<T> x, Index width, const Pass& pass, T direction) const {
    kernels::rotate_heads<T>(pass.exec, x, rows(pass), width, rotary_, cosine_.data(), sine_.data(),
                             direction);
  }
  kernels::Rotary rotary_{};
  Buffer<double> frequencies_;  // [width / 2]
  Buffer<T> cosine_, sine_;     // [rows(pass), width / 2]
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
