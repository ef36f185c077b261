#pragma once
// Decoder block: self-attention, cross-attention to a memory (Vaswani et al. 2017), and a feed-forward branch
// (`mixture`: an MoE layer or a dense FFN), each with a residual connection. DecoderBlock is pre-norm
// (NormType NoNorm: no norm), PostNormDecoderBlock is post-norm. In generation the keys and values of earlier
// tokens and of the memory come from a cache.
#include <moegpt/model/block.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// One layer of a decoder's cache: its own keys and values, to which forward appends, and those of the memory.
template <int Dkv, class T>
struct DecoderKeyValues {
  KeyValues<Dkv, T> own, memory;
  const Index* memory_lengths = nullptr;  // [batch]; null: memory.capacity
};

// Cross-attention beside self-attention of shape s: without mask, rotary positions and window. memory_dim:
// features of the memory.
constexpr AttentionShape cross_attention_shape(AttentionShape s, int memory_dim) {
  s.mask = Mask::full, s.rotary = false, s.memory_dim = memory_dim;
  s.window = s.stride = 0, s.window_at = {};
  s.query_key_norm = QueryKeyNorm::none, s.rotary_scaling = RotaryScaling::none;
  return s;
}

// The pass of the cross-attention of a block, whose dropout differs from that of its self-attention.
inline Pass cross_pass(const Pass& pass) {
  Pass cross = pass;
  if (pass.key) cross.key = pass.key->with(Purpose::cross_attention);
  return cross;
}

// Tape and scratch that both kinds of block have; all streams are [tokens, D].
template <class NormType, class AttentionType, class CrossType, class Mixture>
struct DecoderBlockTape : BlockTape<NormType, AttentionType, Mixture> {
  static constexpr int D = Mixture::dim_in;
  using T = typename Mixture::Scalar;
  Tokens<D, T> read, joined;  // cross-attention's output, second sum
  typename NormType::Tape norm3;
  typename CrossType::Tape cross_attention;
  typename Dropout<D, T>::Tape cross_dropout;
  [[gnu::noinline]] void resize(const Pass& pass) {
    BlockTape<NormType, AttentionType, Mixture>::resize(pass);
    resize_all(pass, read, joined, norm3);
    cross_attention.resize(pass, pass.memory_length);
  }
};
template <class AttentionType, class CrossType, class Mixture>
struct DecoderBlockScratch : BlockScratch<AttentionType, Mixture> {
  static constexpr int D = Mixture::dim_in;
  using T = typename Mixture::Scalar;
  Tokens<D, T> d_normed, d_joined;
  typename CrossType::Scratch cross_attention;
  [[gnu::noinline]] void resize(const Pass& pass) {
    BlockScratch<AttentionType, Mixture>::resize(pass);
    resize_all(pass, d_normed, d_joined);
    cross_attention.resize(pass, pass.memory_length, 0);
  }
};

// Pre-norm (Xiong et al. 2020):
//   middle = x + r dropout(attention(norm1(x)))
//   joined = middle + r dropout(cross_attention(norm2(middle), memory))
//   y = joined + r mixture(norm3(joined))
template <AttentionShape S, int M, class NormType, class Mixture, class N = typename Mixture::Scalar>
struct DecoderBlock {
  static_assert(looks_back_only<Mixture, S.mask>());
  using Scalar = typename Mixture::Scalar;
  using T = Scalar;
  static constexpr int D = S.dim, dim_in = D, dim_out = D;
  using AttentionType = Attention<S, N>;
  using CrossType = Attention<cross_attention_shape(S, M), N>;

  NormType norm1;
  AttentionType attention;
  NormType norm2;
  CrossType cross_attention;
  NormType norm3;
  Mixture mixture;

  static constexpr auto fields() {
    return Fields{
        Field{"norm1", &DecoderBlock::norm1}, Field{"attention", &DecoderBlock::attention},
        Field{"norm2", &DecoderBlock::norm2}, Field{"cross_attention", &DecoderBlock::cross_attention},
        Field{"norm3", &DecoderBlock::norm3}, Field{Mixture::name, &DecoderBlock::mixture}};
  }
  struct Tape : DecoderBlockTape<NormType, AttentionType, CrossType, Mixture> {
    Tokens<D, T> normed1, normed2, normed3;
    void resize(const Pass& pass) {
      DecoderBlockTape<NormType, AttentionType, CrossType, Mixture>::resize(pass);
      resize_all(pass, normed1, normed2, normed3);
    }
  };
  using Scratch = DecoderBlockScratch<AttentionType, CrossType, Mixture>;
  using Cache = DecoderKeyValues<AttentionType::Dkv, T>;

  void forward(In<D, T> x, Memory<M, T> memory, Out<D, T> y, Tape& tape, Scratch& scratch,
               const Pass& pass) const {
    run(x, y, tape, scratch, pass, nullptr, [&](In<D, T> queries, Out<D, T> read, const Pass& cross) {
      cross_attention.forward(queries, memory, read, tape.cross_attention, scratch.cross_attention, cross);
    });
  }
  void forward(In<D, T> x, const Cache& cache, Out<D, T> y, Tape& tape, Scratch& scratch,
               const Pass& pass) const {
    run(x, y, tape, scratch, pass, &cache.own, [&](In<D, T> queries, Out<D, T> read, const Pass& cross) {
      cross_attention.forward(queries, cache.memory, cache.memory_lengths, read, tape.cross_attention,
                              scratch.cross_attention, cross);
    });
  }

  // Overwrites dx, adds to d_memory.
  void backward(In<D, T> x, Memory<M, T> memory, const Tape& tape, In<D, T> dy, Out<D, T> dx,
                Sum<M, T> d_memory, DecoderBlock& grad, Scratch& s, const Pass& pass) const {
    s.resize(pass);
    Dropout<D, T> none;
    const In<D, T> d_mixed = branch_gradient<D, T>(dy, s.d_joined, pass);
    mixture.backward(tape.normed3, tape.mixture, d_mixed, s.d_normed, grad.mixture, s.mixture, pass);
    norm3.backward(tape.joined, tape.norm3, s.d_normed, s.d_joined, grad.norm3, pass);
    kernels::add<T>(pass.exec, s.d_joined, dy, s.d_joined);  // residual
    const Pass cross = cross_pass(pass);
    const In<D, T> d_read = branch_gradient<D, T>(s.d_joined, s.d_attended, pass);
    dropout.backward(tape.read, tape.cross_dropout, d_read, s.d_attended, none, cross);
    cross_attention.backward(tape.normed2, memory, tape.cross_attention, s.d_attended, s.d_normed, d_memory,
                             grad.cross_attention, s.cross_attention, cross);
    norm2.backward(tape.middle, tape.norm2, s.d_normed, s.d_middle, grad.norm2, pass);
    kernels::add<T>(pass.exec, s.d_middle, s.d_joined, s.d_middle);  // residual
    const In<D, T> d_attended = branch_gradient<D, T>(s.d_middle, s.d_attended, pass);
    dropout.backward(tape.attended, tape.dropout, d_attended, s.d_attended, none, pass);
    attention.backward(tape.normed1, tape.attention, s.d_attended, s.d_normed, grad.attention, s.attention,
                       pass);
    norm1.backward(x, tape.norm1, s.d_normed, dx, grad.norm1, pass);
    if (!dx.empty()) kernels::add<T>(pass.exec, dx, s.d_middle, dx);  // residual
  }

 private:
  static constexpr Dropout<D, T> dropout{};

  template <class Read>
  void run(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass,
           const KeyValues<AttentionType::Dkv, T>* own, const Read& read) const {
    tape.resize(pass);
    norm1.forward(x, tape.normed1, tape.norm1, pass);
    attention.forward(tape.normed1, tape.attended, tape.attention, scratch.attention, pass, own);
    dropout.forward(tape.attended, tape.attended, tape.dropout, pass);
    add_branch<D, T>(x, tape.attended, tape.middle, pass);
    norm2.forward(tape.middle, tape.normed2, tape.norm2, pass);
    const Pass cross = cross_pass(pass);
    read(tape.normed2, tape.read, cross);
    dropout.forward(tape.read, tape.read, tape.cross_dropout, cross);
    add_branch<D, T>(tape.middle, tape.read, tape.joined, pass);
    norm3.forward(tape.joined, tape.normed3, tape.norm3, pass);
    mixture.forward(tape.normed3, tape.mixed, tape.mixture, scratch.mixture, pass);
    add_branch<D, T>(tape.joined, tape.mixed, y, pass);
  }
};

// Post-norm (Vaswani et al. 2017):
//   middle = norm1(x + r dropout(attention(x)))
//   joined = norm2(middle + r dropout(cross_attention(middle, memory)))
//   y = norm3(joined + r mixture(joined))
template <AttentionShape S, int M, class NormType, class Mixture, class N = typename Mixture::Scalar>
struct PostNormDecoderBlock {
  static_assert(looks_back_only<Mixture, S.mask>());
  using Scalar = typename Mixture::Scalar;
  using T = Scalar;
  static constexpr int D = S.dim, dim_in = D, dim_out = D;
  using AttentionType = Attention<S, N>;
  using CrossType = Attention<cross_attention_shape(S, M), N>;

  AttentionType attention;
  NormType norm1;
  CrossType cross_attention;
  NormType norm2;
  Mixture mixture;
  NormType norm3;

  static constexpr auto fields() {
    return Fields{Field{"attention", &PostNormDecoderBlock::attention},
                  Field{"norm1", &PostNormDecoderBlock::norm1},
                  Field{"cross_attention", &PostNormDecoderBlock::cross_attention},
                  Field{"norm2", &PostNormDecoderBlock::norm2},
                  Field{Mixture::name, &PostNormDecoderBlock::mixture},
                  Field{"norm3", &PostNormDecoderBlock::norm3}};
  }
  struct Tape : DecoderBlockTape<NormType, AttentionType, CrossType, Mixture> {
    Tokens<D, T> sum1, sum2, sum3;
    void resize(const Pass& pass) {
      DecoderBlockTape<NormType, AttentionType, CrossType, Mixture>::resize(pass);
      resize_all(pass, sum1, sum2, sum3);
    }
  };
  using Scratch = DecoderBlockScratch<AttentionType, CrossType, Mixture>;
  using Cache = DecoderKeyValues<AttentionType::Dkv, T>;

  void forward(In<D, T> x, Memory<M, T> memory, Out<D, T> y, Tape& tape, Scratch& scratch,
               const Pass& pass) const {
    run(x, y, tape, scratch, pass, nullptr, [&](In<D, T> queries, Out<D, T> read, const Pass& cross) {
      cross_attention.forward(queries, memory, read, tape.cross_attention, scratch.cross_attention, cross);
    });
  }
  void forward(In<D, T> x, const Cache& cache, Out<D, T> y, Tape& tape, Scratch& scratch,
               const Pass& pass) const {
    run(x, y, tape, scratch, pass, &cache.own, [&](In<D, T> queries, Out<D, T> read, const Pass& cross) {
      cross_attention.forward(queries, cache.memory, cache.memory_lengths, read, tape.cross_attention,
                              scratch.cross_attention, cross);
    });
  }

  // Overwrites dx, adds to d_memory.
  void backward(In<D, T> x, Memory<M, T> memory, const Tape& tape, In<D, T> dy, Out<D, T> dx,
                Sum<M, T> d_memory, PostNormDecoderBlock& grad, Scratch& s, const Pass& pass) const {
    s.resize(pass);
    Dropout<D, T> none;
    norm3.backward(tape.sum3, tape.norm3, dy, s.d_normed, grad.norm3, pass);
    const In<D, T> d_mixed = branch_gradient<D, T>(s.d_normed, s.d_attended, pass);
    mixture.backward(tape.joined, tape.mixture, d_mixed, s.d_joined, grad.mixture, s.mixture, pass);
    kernels::add<T>(pass.exec, s.d_joined, s.d_normed, s.d_joined);  // residual
    norm2.backward(tape.sum2, tape.norm2, s.d_joined, s.d_normed, grad.norm2, pass);
    const Pass cross = cross_pass(pass);
    const In<D, T> d_read = branch_gradient<D, T>(s.d_normed, s.d_attended, pass);
    dropout.backward(tape.read, tape.cross_dropout, d_read, s.d_attended, none, cross);
    cross_attention.backward(tape.middle, memory, tape.cross_attention, s.d_attended, s.d_middle, d_memory,
                             grad.cross_attention, s.cross_attention, cross);
    kernels::add<T>(pass.exec, s.d_middle, s.d_normed, s.d_middle);  // residual
    norm1.backward(tape.sum1, tape.norm1, s.d_middle, s.d_normed, grad.norm1, pass);
    const In<D, T> d_attended = branch_gradient<D, T>(s.d_normed, s.d_attended, pass);
    dropout.backward(tape.attended, tape.dropout, d_attended, s.d_attended, none, pass);
    attention.backward(x, tape.attention, s.d_attended, dx, grad.attention, s.attention, pass);
    if (!dx.empty()) kernels::add<T>(pass.exec, dx, s.d_normed, dx);  // residual
  }

 private:
  static constexpr Dropout<D, T> dropout{};

  template <class Read>
  void run(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass,
           const KeyValues<AttentionType::Dkv, T>* own, const Read& read) const {
    tape.resize(pass);
    attention.forward(x, tape.attended, tape.attention, scratch.attention, pass, own);
    dropout.forward(tape.attended, tape.attended, tape.dropout, pass);
    add_branch<D, T>(x, tape.attended, tape.sum1, pass);
    norm1.forward(tape.sum1, tape.middle, tape.norm1, pass);
    const Pass cross = cross_pass(pass);
    read(tape.middle, tape.read, cross);
    dropout.forward(tape.read, tape.read, tape.cross_dropout, cross);
    add_branch<D, T>(tape.middle, tape.read, tape.sum2, pass);
    norm2.forward(tape.sum2, tape.joined, tape.norm2, pass);
    mixture.forward(tape.joined, tape.mixed, tape.mixture, scratch.mixture, pass);
    add_branch<D, T>(tape.joined, tape.mixed, tape.sum3, pass);
    norm3.forward(tape.sum3, y, tape.norm3, pass);
  }
};

// The block of a decoder that Config::residual selects.
template <bool PostNorm, AttentionShape S, int M, class NormType, class Mixture, class N>
using DecoderBlockOf = std::conditional_t<PostNorm, PostNormDecoderBlock<S, M, NormType, Mixture, N>,
                                          DecoderBlock<S, M, NormType, Mixture, N>>;

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
