#pragma once
// Chunked cross-attention (Borgeaud et al. 2022, RETRO, section 2.4), with a residual connection:
//   y_t = x_t + attention(norm(x_t), memory of chunk g),   g m + m - 1 <= t < (g + 1) m + m - 1
// for chunks of m tokens. The first m - 1 tokens of a sequence, and tokens whose chunk has an empty memory,
// are y_t = x_t.
#include <moegpt/layers/attention.hpp>
#include <moegpt/layers/norms.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// chunk: m; S: with Mask::full, memory_dim and without a bias of the output; NormType of S.dim features.
template <int Chunk, AttentionShape S, class NormType, class N = typename NormType::Scalar>
struct ChunkedCrossAttention {
  static_assert(Chunk >= 1, "ChunkedCrossAttention: a chunk has at least 1 token");
  static_assert(!S.output_bias,
                "ChunkedCrossAttention: output_bias must be false: a chunk without memory adds nothing");
  using T = ScalarOf<N>;
  using Scalar = T;
  static constexpr int D = S.dim, dim_in = D, dim_out = D, M = S.memory_width(), m = Chunk;
  using AttentionType = Attention<S, N>;

  NormType norm;
  AttentionType attention;

  static constexpr auto fields() {
    return Fields{Field{"norm", &ChunkedCrossAttention::norm},
                  Field{"attention", &ChunkedCrossAttention::attention}};
  }
  // Rows are those of the tokens that attend: m for each chunk, zero beyond the end of a sequence.
  struct Tape {
    Tokens<D, T> x, normed, attended;
    Buffer<Index> rows;  // [chunks] tokens that attend to the memory of a chunk, 1 .. m; 0: padding
    typename NormType::Tape norm;
    typename AttentionType::Tape attention;
    void resize(const Pass& inner, Index memory) {
      resize_all(inner, x, normed, attended, norm);
      attention.resize(inner, memory);
      rows.resize(inner.shape.batch);
    }
  };
  struct Scratch {
    Tokens<D, T> d_attended, d_normed, d_x;
    typename AttentionType::Scratch attention;
    void resize(const Pass& inner, Index memory) {
      resize_all(inner, d_attended, d_normed, d_x);
      attention.resize(inner, memory, 0);
    }
  };

  // The pass of the tokens that attend: a sequence for each chunk. With rows: [chunks], see Tape.
  static Pass inner_pass(const Pass& pass, const Index* rows) {
    Pass inner = pass;
    inner.shape = {pass.shape.batch * (pass.shape.length / m), m};
    inner.first_position = 0, inner.first_positions = nullptr, inner.sequence_stride = 0;
    inner.lengths = rows, inner.documents = nullptr, inner.partial = true;
    return inner;
  }

  // x is changed in place. memory: [batch, chunks] sequences, chunks = pass.shape.length / m.
  void forward(Out<D, T> x, Memory<M, T> memory, Tape& tape, Scratch& scratch, const Pass& pass) const {
    pass.check_fits(x.count, x.count);
    Pass inner = inner_pass(pass, nullptr);
    tape.resize(inner, memory.length);
    for (Index c = 0; c < inner.shape.batch; ++c) tape.rows[c] = rows_of(c, pass);
    inner.lengths = tape.rows.data();
    gather(x, tape.x, tape, pass);
    norm.forward(tape.x, tape.normed, tape.norm, inner);
    attention.forward(tape.normed, memory, tape.attended, tape.attention, scratch.attention, inner);
    scatter(tape.attended, x, tape, pass);
  }

  // d: gradient of the output, changed to that of the input. Adds to d_memory.
  void backward(Memory<M, T> memory, const Tape& tape, Out<D, T> d, Sum<M, T> d_memory,
                ChunkedCrossAttention& grad, Scratch& s, const Pass& pass) const {
    const Pass inner = inner_pass(pass, tape.rows.data());
    s.resize(inner, memory.length);
    gather(d, s.d_attended, tape, pass);
    attention.backward(tape.normed, memory, tape.attention, s.d_attended, s.d_normed, d_memory,
                       grad.attention, s.attention, inner);
    norm.backward(tape.x, tape.norm, s.d_normed, s.d_x, grad.norm, inner);
    scatter(s.d_x, d, tape, pass);
  }

 private:
  static Index chunks(const Pass& pass) { return pass.shape.length / m; }
  // Position of the first token that attends to the memory of chunk c of all; its sequence is c / chunks.
  static Index first_of(Index c, const Pass& pass) { return c % chunks(pass) * m + m - 1; }
  static Index rows_of(Index c, const Pass& pass) {
    const Index rows = pass.length_of(c / chunks(pass)) - first_of(c, pass);
    return std::clamp<Index>(rows, 0, m);
  }
  static Index token_of(Index c, const Pass& pass) {
    return c / chunks(pass) * pass.shape.length + first_of(c, pass);
  }
  static void gather(In<D, T> from, Out<D, T> to, const Tape& tape, const Pass& pass) {
    for (Index c = 0; c < tape.rows.size(); ++c) {
      T* const end = std::copy_n(from[token_of(c, pass)], tape.rows[c] * D, to[c * m]);
      std::fill(end, to[(c + 1) * m], T(0));
    }
  }
  static void scatter(In<D, T> from, Out<D, T> to, const Tape& tape, const Pass& pass) {
    for (Index c = 0; c < tape.rows.size(); ++c) {
      T* const into = to[token_of(c, pass)];
      for (Index i = 0; i < tape.rows[c] * D; ++i) into[i] += from[c * m][i];
    }
  }
};
static_assert(
    lists_every_field<ChunkedCrossAttention<
        2, AttentionShape{.dim = 4, .heads = 2, .mask = Mask::full, .output_bias = false}, LayerNorm<4>>>());

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
