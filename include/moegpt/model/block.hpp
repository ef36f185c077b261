#pragma once
// Transformer block: attention and a feed-forward branch (`mixture`: an MoE layer or a dense FFN), each with
// a residual connection. Block is pre-norm (NormType NoNorm: no norm), PostNormBlock is post-norm.
// r is ModelOptions::residual_scale.
#include <moegpt/kernels/elementwise.hpp>
#include <moegpt/layers/attention.hpp>
#include <moegpt/layers/dropout.hpp>
#include <moegpt/layers/norms.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Static assertions that reject a non-causal MoE layer in a decoder; the message names drop policy or router.
template <class Mixture, Mask M>
consteval bool looks_back_only() {
  constexpr bool refused = M == Mask::causal && !Mixture::causal;
  constexpr bool by_drop_rule = requires { requires !Mixture::drop.causal(); };
  static_assert(
      !(refused && by_drop_rule),
      "Dropping: under this drop rule a later token can take an earlier one's place, so a decoder that uses "
      "it leaks the future: only Drop::token_order or Group::position do not; or AllowNonCausal<...> if that "
      "is meant");
  static_assert(
      !refused || by_drop_rule,
      "Block: this router looks at later tokens, so a decoder that uses it leaks the future, and what "
      "it generates is not what it learned: choose a causal router, or AllowNonCausal<...> if that is meant");
  return true;
}

// Residual connection: y = x + r branch. y may be x or branch.
template <int D, class T>
void add_branch(In<D, T> x, In<D, T> branch, Out<D, T> y, const Pass& pass) {
  kernels::add<T>(pass.exec, x, branch, y, static_cast<T>(pass.options.residual_scale));
}
// Its backward for the branch: r dy, in `scaled` unless r = 1.
template <int D, class T>
In<D, T> branch_gradient(In<D, T> dy, Out<D, T> scaled, const Pass& pass) {
  if (pass.options.residual_scale == 1) return dy;
  kernels::scale<T>(pass.exec, static_cast<T>(pass.options.residual_scale), dy, scaled);
  return scaled;
}

// Tape and scratch that both kinds of block have; all streams are [tokens, D].
template <class NormType, class AttentionType, class Mixture>
struct BlockTape {
  static constexpr int D = Mixture::dim_in;
  using T = typename Mixture::Scalar;
  Tokens<D, T> attended, middle, mixed;  // attention's output, first sum, feed-forward branch's output
  typename NormType::Tape norm1, norm2;
  typename AttentionType::Tape attention;
  typename Dropout<D, T>::Tape dropout;
  typename Mixture::Tape mixture;
  [[gnu::noinline]] void resize(const Pass& pass) {
    resize_all(pass, attended, middle, mixed, norm1, norm2, attention, mixture);
  }
};
template <class AttentionType, class Mixture>
struct BlockScratch {
  static constexpr int D = Mixture::dim_in;
  using T = typename Mixture::Scalar;
  Tokens<D, T> d_middle, d_attended;
  typename AttentionType::Scratch attention;
  typename Mixture::Scratch mixture;
  [[gnu::noinline]] void resize(const Pass& pass) {
    resize_all(pass, d_middle, d_attended, attention, mixture);
  }
};

// Pre-norm (Xiong et al. 2020):
//   middle = x + r dropout(attention(norm1(x)))
//   y = middle + r mixture(norm2(middle))
template <AttentionShape S, class NormType, class Mixture, class N = typename Mixture::Scalar>
struct Block {
  static_assert(looks_back_only<Mixture, S.mask>());
  using Scalar = typename Mixture::Scalar;
  using T = Scalar;
  static constexpr int D = S.dim, dim_in = D, dim_out = D;
  using AttentionType = Attention<S, N>;

  NormType norm1;
  AttentionType attention;
  NormType norm2;
  Mixture mixture;

  static constexpr auto fields() {
    return Fields{Field{"norm1", &Block::norm1}, Field{"attention", &Block::attention},
                  Field{"norm2", &Block::norm2}, Field{Mixture::name, &Block::mixture}};
  }
  struct Tape : BlockTape<NormType, AttentionType, Mixture> {
    Tokens<D, T> normed1, normed2;
    void resize(const Pass& pass) {
      BlockTape<NormType, AttentionType, Mixture>::resize(pass);
      resize_all(pass, normed1, normed2);
    }
  };
  struct Scratch : BlockScratch<AttentionType, Mixture> {
    Tokens<D, T> d_normed;
    void resize(const Pass& pass) {
      BlockScratch<AttentionType, Mixture>::resize(pass);
      d_normed.resize(pass);
    }
  };
  using Cache = KeyValues<AttentionType::Dkv, T>;

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass,
               const Cache* cache = nullptr) const {
    tape.resize(pass);
    norm1.forward(x, tape.normed1, tape.norm1, pass);
    attention.forward(tape.normed1, tape.attended, tape.attention, scratch.attention, pass, cache);
    dropout.forward(tape.attended, tape.attended, tape.dropout, pass);
    add_branch<D, T>(x, tape.attended, tape.middle, pass);
    norm2.forward(tape.middle, tape.normed2, tape.norm2, pass);
    mixture.forward(tape.normed2, tape.mixed, tape.mixture, scratch.mixture, pass);
    add_branch<D, T>(tape.middle, tape.mixed, y, pass);
  }

  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, Block& grad, Scratch& s,
                const Pass& pass) const {
    s.resize(pass);
    const In<D, T> d_mixed = branch_gradient<D, T>(dy, s.d_middle, pass);
    mixture.backward(tape.normed2, tape.mixture, d_mixed, s.d_normed, grad.mixture, s.mixture, pass);
    norm2.backward(tape.middle, tape.norm2, s.d_normed, s.d_middle, grad.norm2, pass);
    kernels::add<T>(pass.exec, s.d_middle, dy, s.d_middle);  // residual
    Dropout<D, T> none;
    const In<D, T> d_attended = branch_gradient<D, T>(s.d_middle, s.d_attended, pass);
    dropout.backward(tape.attended, tape.dropout, d_attended, s.d_attended, none, pass);
    attention.backward(tape.normed1, tape.attention, s.d_attended, s.d_normed, grad.attention, s.attention,
                       pass);
    norm1.backward(x, tape.norm1, s.d_normed, dx, grad.norm1, pass);
    if (!dx.empty()) kernels::add<T>(pass.exec, dx, s.d_middle, dx);  // residual
  }

 private:
  static constexpr Dropout<D, T> dropout{};
};

// Post-norm (Vaswani et al. 2017). Its output is normalised, so the model has no final norm.
//   middle = norm1(x + r dropout(attention(x)))
//   y = norm2(middle + r mixture(middle))
template <AttentionShape S, class NormType, class Mixture, class N = typename Mixture::Scalar>
struct PostNormBlock {
  static_assert(looks_back_only<Mixture, S.mask>());
  using Scalar = typename Mixture::Scalar;
  using T = Scalar;
  static constexpr int D = S.dim, dim_in = D, dim_out = D;
  using AttentionType = Attention<S, N>;

  AttentionType attention;
  NormType norm1;
  Mixture mixture;
  NormType norm2;

  static constexpr auto fields() {
    return Fields{Field{"attention", &PostNormBlock::attention}, Field{"norm1", &PostNormBlock::norm1},
                  Field{Mixture::name, &PostNormBlock::mixture}, Field{"norm2", &PostNormBlock::norm2}};
  }
  struct Tape : BlockTape<NormType, AttentionType, Mixture> {
    Tokens<D, T> sum1, sum2;
    void resize(const Pass& pass) {
      BlockTape<NormType, AttentionType, Mixture>::resize(pass);
      resize_all(pass, sum1, sum2);
    }
  };
  struct Scratch : BlockScratch<AttentionType, Mixture> {
    Tokens<D, T> d_sum;
    void resize(const Pass& pass) {
      BlockScratch<AttentionType, Mixture>::resize(pass);
      d_sum.resize(pass);
    }
  };
  using Cache = KeyValues<AttentionType::Dkv, T>;

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass,
               const Cache* cache = nullptr) const {
    tape.resize(pass);
    attention.forward(x, tape.attended, tape.attention, scratch.attention, pass, cache);
    dropout.forward(tape.attended, tape.attended, tape.dropout, pass);
    add_branch<D, T>(x, tape.attended, tape.sum1, pass);
    norm1.forward(tape.sum1, tape.middle, tape.norm1, pass);
    mixture.forward(tape.middle, tape.mixed, tape.mixture, scratch.mixture, pass);
    add_branch<D, T>(tape.middle, tape.mixed, tape.sum2, pass);
    norm2.forward(tape.sum2, y, tape.norm2, pass);
  }

  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, PostNormBlock& grad, Scratch& s,
                const Pass& pass) const {
    s.resize(pass);
    norm2.backward(tape.sum2, tape.norm2, dy, s.d_sum, grad.norm2, pass);
    const In<D, T> d_mixed = branch_gradient<D, T>(s.d_sum, s.d_attended, pass);
    mixture.backward(tape.middle, tape.mixture, d_mixed, s.d_middle, grad.mixture, s.mixture, pass);
    kernels::add<T>(pass.exec, s.d_middle, s.d_sum, s.d_middle);  // residual
    norm1.backward(tape.sum1, tape.norm1, s.d_middle, s.d_sum, grad.norm1, pass);
    Dropout<D, T> none;
    const In<D, T> d_attended = branch_gradient<D, T>(s.d_sum, s.d_attended, pass);
    dropout.backward(tape.attended, tape.dropout, d_attended, s.d_attended, none, pass);
    attention.backward(x, tape.attention, s.d_attended, dx, grad.attention, s.attention, pass);
    if (!dx.empty()) kernels::add<T>(pass.exec, dx, s.d_sum, dx);  // residual
  }

 private:
  static constexpr Dropout<D, T> dropout{};
};

// The block type of a model: Recipe::Block<S, NormType, Mixture> if Recipe declares one (with the interface
// of Block), otherwise the one that Config::residual selects. In dense layers Mixture is a FeedForward.
namespace detail {
template <class Recipe, bool PostNorm, AttentionShape S, class NormType, class Mixture, class N>
struct BlockFor {
  using type =
      std::conditional_t<PostNorm, PostNormBlock<S, NormType, Mixture, N>, Block<S, NormType, Mixture, N>>;
};
template <class Recipe, bool PostNorm, AttentionShape S, class NormType, class Mixture, class N>
  requires requires { typename Recipe::template Block<S, NormType, Mixture>; }
struct BlockFor<Recipe, PostNorm, S, NormType, Mixture, N> {
  using type = typename Recipe::template Block<S, NormType, Mixture>;
};
}  // namespace detail
template <class Recipe, bool PostNorm, AttentionShape S, class NormType, class Mixture,
          class N = typename Mixture::Scalar>
using BlockOfRecipe = typename detail::BlockFor<Recipe, PostNorm, S, NormType, Mixture, N>::type;

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
