// A decoder block by itself: what it adds to and overwrites, and its cache of keys and values.
#include <moegpt/model/decoder_block.hpp>
#include <moegpt/moe/feed_forward.hpp>

#include "support.hpp"
#include "support/gradchecks.hpp"

namespace {

constexpr AttentionShape shape{.dim = 6, .heads = 2};
using Network = FeedForward<Expert<6, 5, Activation::gelu, double>>;
using PreNorm = DecoderBlock<shape, 4, LayerNorm<6, double>, Network>;
using PostNorm = PostNormDecoderBlock<shape, 4, LayerNorm<6, double>, Network>;
static_assert(LayerWithMemory<PreNorm, 4> && LayerWithMemory<PostNorm, 4>);
static_assert(lists_every_field<PreNorm>() && lists_every_field<PostNorm>());

template <int D>
Tokens<D, double> random_tokens(Index count, std::uint64_t seed) {
  Tokens<D, double> x(count);
  Rng rng(seed);
  for (double& v : x.memory()) v = rng.normal();
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("the gradients of a decoder block agree with differences, of the memory too", "", PreNorm,
                   PostNorm) {
  const Index lengths[] = {4, 2};
  gradcheck_three_seeds<TestType, 4>({.pass = {.shape = {2, 3}}}, {.length = 4, .lengths = lengths});
}

TEMPLATE_TEST_CASE(
    "a decoder block overwrites dx, adds to the memory's gradient and skips what is not wanted", "", PreNorm,
    PostNorm) {
  const auto block = random_model<TestType>(1);
  TestType grad, grad2;
  auto x = random_tokens<6>(6, 2), dy = random_tokens<6>(6, 3), y = dy, dx = dy, dx2 = dy;
  auto tokens = random_tokens<4>(8, 4), d_memory = tokens, d_memory2 = tokens;
  const Memory<4, double> memory{tokens, 4};
  typename TestType::Tape tape;
  typename TestType::Scratch scratch;
  const Pass pass{.shape = {2, 3}};
  block->forward(x, memory, y, tape, scratch, pass);
  d_memory.memory().fill(0), d_memory2.memory().fill(1);
  block->backward(x, memory, tape, dy, dx, Sum(d_memory.view()), grad, scratch, pass);
  block->backward(x, memory, tape, dy, dx2, Sum(d_memory2.view()), grad2, scratch, pass);
  CHECK(same_bits(dx[0], dx2[0], 6 * 6));
  CHECK(first_difference(grad, grad2).empty());
  for (Index i = 0; i < 8 * 4; ++i) CHECK(d_memory2[0][i] == Approx(1 + d_memory[0][i]));
  block->backward(x, memory, tape, dy, {}, Sum(Out<4, double>{}), grad2, scratch, pass);
  CHECK(grad2.norm1.bias.data()[0] == Approx(2 * grad.norm1.bias.data()[0]));
}

TEMPLATE_TEST_CASE("a decoder block with cached keys and values has the bits of the whole pass", "", PreNorm,
                   PostNorm) {
  const auto block = random_model<TestType>(1);
  auto x = random_tokens<6>(6, 2), y = x, step = random_tokens<6>(2, 2);
  auto tokens = random_tokens<4>(8, 4);
  const Index lengths[] = {4, 2};
  typename TestType::Tape tape;
  typename TestType::Scratch scratch;
  block->forward(x, Memory<4, double>{tokens, 4, lengths}, y, tape, scratch, {.shape = {2, 3}});
  Tokens<6, double> own_keys(6), own_values(6), keys(8), values(8), one(2);
  block->cross_attention.key.forward(tokens, keys, {.shape = {2, 4}});
  block->cross_attention.value.forward(tokens, values, {.shape = {2, 4}});
  const typename TestType::Cache cache{{own_keys, own_values, 3}, {keys, values, 4}, lengths};
  for (Index t = 0; t < 3; ++t) {
    for (Index b = 0; b < 2; ++b) std::copy_n(x[3 * b + t], 6, step[b]);
    block->forward(step, cache, one, tape, scratch, {.shape = {2, 1}, .first_position = t});
    for (Index b = 0; b < 2; ++b) CHECK(same_bits(one[b], y[3 * b + t], 6));
  }
}
