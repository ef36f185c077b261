#include "layers.hpp"

#include "layer_run.hpp"

namespace bench {

namespace {

// Forward, dx and dW of every matrix, each 2 FLOP for a weight and token.
double expert_flops(double D, double Dff, double slot_count) { return 6 * 2 * D * Dff * slot_count; }

template <int E, int K, int D, int Dff>
LayerWork mixture(Index tokens, int threads) {
  const auto n = static_cast<double>(tokens);
  return {expert_flops(D, Dff, K * n) + 6.0 * D * E * n,
          both_ways<MoELayer<TopKRouter<E, K>, Expert<D, Dff>>>({1, tokens}, threads)};
}
template <int D, int Dff>
LayerWork dense(Index tokens, int threads) {
  return {expert_flops(D, Dff, static_cast<double>(tokens)),
          both_ways<FeedForward<Expert<D, Dff>>>({1, tokens}, threads)};
}

}  // namespace

Pair few_large_experts(int threads) {
  return {mixture<8, 2, 512, 1024>(4096, threads), dense<512, 2048>(4096, threads)};
}
Pair many_small_experts(int threads) {
  return {mixture<64, 8, 512, 256>(4096, threads), dense<512, 2048>(4096, threads)};
}

LayerWork mixture_of(int experts, int threads) {
  constexpr int K = 2, D = 128, Dff = 512;
  constexpr Index tokens = 8192;
  switch (experts) {
    case 4:
      return mixture<4, K, D, Dff>(tokens, threads);
    case 8:
      return mixture<8, K, D, Dff>(tokens, threads);
    case 16:
      return mixture<16, K, D, Dff>(tokens, threads);
    case 32:
      return mixture<32, K, D, Dff>(tokens, threads);
    default:
      return mixture<64, K, D, Dff>(tokens, threads);
  }
}

LayerWork gpt2_moe_block(int threads) {
  constexpr int D = 768, E = 8, K = 2;
  constexpr Shape shape{4, 256};
  constexpr AttentionShape attention{.dim = D, .heads = 12, .mask = Mask::causal, .bias = true};
  const auto n = static_cast<double>(shape.tokens()), T = static_cast<double>(shape.length);
  return {expert_flops(D, 4 * D, K * n) + n * (6.0 * D * E + 6.0 * 4 * D * D + 3.0 * 2 * D * (T + 1)),
          both_ways<Block<attention, LayerNorm<D>, MoELayer<TopKRouter<E, K>, Expert<D, 4 * D>>>>(shape,
                                                                                                  threads)};
}

}  // namespace bench
