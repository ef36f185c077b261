#pragma once
// Layers of several programs, compiled once in layers.cpp.
#include <functional>
#include <vector>

namespace bench {

struct LayerWork {
  double flops;                // of the products, forward and backward
  std::function<void()> call;  // forward and backward
};

// A MoE layer with its router and a dense feed-forward network of equal active FLOPs, D 512, 4,096 tokens.
struct Pair {
  LayerWork mixture, dense;
};
Pair few_large_experts(int threads);   // E 8, K 2, Dff 1024 over one network of 2048
Pair many_small_experts(int threads);  // E 64, K 8, Dff 256 over one network of 2048

// E experts, K 2, D 128, Dff 512, 8,192 tokens; E 4, 8, 16, 32 or 64.
LayerWork mixture_of(int experts, int threads);

// One block of GPT-2 small with 8 experts, K 2, 4 x 256 tokens.
LayerWork gpt2_moe_block(int threads);

}  // namespace bench
