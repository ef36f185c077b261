#include <moegpt/moe/feed_forward.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support.hpp"

namespace {

constexpr AttentionShape attention{
    .dim = 6, .heads = 2, .kv_heads = 1, .mask = Mask::causal, .rotary = false, .output_bias = true};
using Mixture = MoELayer<NoisyTopKRouter<3, 2>, Expert<6, 5, Activation::tanh, double>>;
using MoEBlock = Block<attention, LayerNorm<6, double>, Mixture>;
using PostNorm = PostNormBlock<attention, RMSNorm<6, double>, Mixture>;
using NormFree = Block<attention, NoNorm<6, double>, Mixture>;
using DenseBlock = Block<attention, RMSNorm<6, double>, FeedForward<Expert<6, 5, Activation::gelu, double>>>;

const Pass pass{.shape = {2, 4}};

template <class BlockType>
void draw(BlockType& block, Tokens<6, double>& x) {
  Rng rng(8);
  for_each_weight(
      [&](auto& w) {
        for (auto& v : w) v = rng.normal();
      },
      block);
  for (double& v : x.memory()) v = rng.normal();
}

}  // namespace

TEST_CASE("gradients of every kind of block are its differences, with noise and dropout") {
  for (const std::uint64_t seed : {1, 2, 3}) {
    GradcheckOptions options{.seed = seed, .per_tensor = 24};
    options.pass = {.shape = {2, 4}, .dropout = 0.3, .key = Key{seed}};
    if (seed == 2) options.pass.options.residual_scale = 0.4;
    options.routing.objective = {.balance = 0.5, .z = 0.5};
    for (const GradcheckReport& report : {gradcheck<MoEBlock>(options), gradcheck<DenseBlock>(options),
                                          gradcheck<PostNorm>(options), gradcheck<NormFree>(options)}) {
      INFO(report.message);
      CHECK(report.ok);
      CHECK(report.worst <= 1e-6);
    }
  }
}

TEST_CASE("a block whose branches write nothing is the identity") {
  DenseBlock block;
  Tokens<6, double> x(pass.tokens()), y(pass.tokens());
  draw(block, x);
  set_zero(block.attention.output);
  set_zero(block.mixture.network.down);
  DenseBlock::Tape tape;
  DenseBlock::Scratch scratch;
  block.forward(x, y, tape, scratch, pass);
  CHECK(same_bits(x[0], y[0], 6 * pass.tokens()));
}

TEST_CASE("a block adds attention of the normed stream, then the mixture of the normed sum") {
  MoEBlock block;
  Tokens<6, double> x(pass.tokens()), y(pass.tokens());
  draw(block, x);
  MoEBlock::Tape tape;
  MoEBlock::Scratch scratch;
  block.forward(x, y, tape, scratch, pass);

  Tokens<6, double> normed(pass.tokens()), branch(pass.tokens());
  LayerNorm<6, double>::Tape norm_tape;
  block.norm1.forward(x, normed, norm_tape, pass);
  block.attention.forward(normed, branch, tape.attention, scratch.attention, pass);
  Tokens<6, double> middle(pass.tokens()), sum(pass.tokens());
  middle.eigen() = x.eigen() + branch.eigen();
  block.norm2.forward(middle, normed, norm_tape, pass);
  block.mixture.forward(normed, branch, tape.mixture, scratch.mixture, pass);
  sum.eigen() = middle.eigen() + branch.eigen();
  CHECK(same_bits(y[0], sum[0], 6 * pass.tokens()));
}

TEST_CASE("dropout of one drops both branches of a block") {
  MoEBlock block;
  Tokens<6, double> x(pass.tokens()), y(pass.tokens());
  draw(block, x);
  MoEBlock::Tape tape;
  MoEBlock::Scratch scratch;
  block.forward(x, y, tape, scratch, {.shape = pass.shape, .dropout = 1 - 1e-12, .key = Key{3}});
  CHECK(same_bits(x[0], y[0], 6 * pass.tokens()));
}

TEST_CASE("a block passes over the gradient of x where it is not wanted, and the weights' do not change") {
  MoEBlock block, grad, grad2;
  Tokens<6, double> x(pass.tokens()), y(pass.tokens()), dx(pass.tokens());
  draw(block, x);
  MoEBlock::Tape tape;
  MoEBlock::Scratch scratch;
  block.forward(x, y, tape, scratch, pass);
  block.backward(x, tape, y, dx, grad, scratch, pass);
  block.backward(x, tape, y, {}, grad2, scratch, pass);
  CHECK(first_difference(grad, grad2) == "");
}

TEST_CASE("a post-norm block norms the sum with attention, then the sum with the mixture") {
  PostNorm block;
  Tokens<6, double> x(pass.tokens()), y(pass.tokens());
  draw(block, x);
  PostNorm::Tape tape;
  PostNorm::Scratch scratch;
  block.forward(x, y, tape, scratch, pass);

  Tokens<6, double> branch(pass.tokens()), sum(pass.tokens()), middle(pass.tokens()), last(pass.tokens());
  RMSNorm<6, double>::Tape norm_tape;
  block.attention.forward(x, branch, tape.attention, scratch.attention, pass);
  sum.eigen() = x.eigen() + branch.eigen();
  block.norm1.forward(sum, middle, norm_tape, pass);
  block.mixture.forward(middle, branch, tape.mixture, scratch.mixture, pass);
  sum.eigen() = middle.eigen() + branch.eigen();
  block.norm2.forward(sum, last, norm_tape, pass);
  CHECK(same_bits(y[0], last[0], 6 * pass.tokens()));
}

TEST_CASE("a block without norms adds attention of the stream, then the mixture of the sum") {
  NormFree block;
  Tokens<6, double> x(pass.tokens()), y(pass.tokens());
  draw(block, x);
  NormFree::Tape tape;
  NormFree::Scratch scratch;
  block.forward(x, y, tape, scratch, pass);

  Tokens<6, double> branch(pass.tokens()), middle(pass.tokens()), sum(pass.tokens());
  block.attention.forward(x, branch, tape.attention, scratch.attention, pass);
  middle.eigen() = x.eigen() + branch.eigen();
  block.mixture.forward(middle, branch, tape.mixture, scratch.mixture, pass);
  sum.eigen() = middle.eigen() + branch.eigen();
  CHECK(same_bits(y[0], sum[0], 6 * pass.tokens()));
}

TEST_CASE(
    "a post-norm block passes over the gradient of x where it is not wanted, and the weights' do not "
    "change") {
  PostNorm block, grad, grad2;
  Tokens<6, double> x(pass.tokens()), y(pass.tokens()), dx(pass.tokens());
  draw(block, x);
  PostNorm::Tape tape;
  PostNorm::Scratch scratch;
  block.forward(x, y, tape, scratch, pass);
  block.backward(x, tape, y, dx, grad, scratch, pass);
  block.backward(x, tape, y, {}, grad2, scratch, pass);
  CHECK(first_difference(grad, grad2) == "");
}
