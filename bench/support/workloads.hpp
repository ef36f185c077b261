#pragma once
// Whole training steps of the models that are compared with other systems. Each model is a type that costs
// seconds to compile, so programs see functions only; workloads.cpp is compiled once.
#include <functional>
#include <string>

namespace bench {

// tokens, model FLOPs and bytes of memory of one step. The formulas are in training.hpp.
struct Workload {
  std::string name;
  double tokens = 0, flops = 0, weights = 0, memory = 0;
  std::function<void()> step;  // zero gradient, forward, backward, Adam, on the next of a few random batches
};

Workload makemoe(int threads);  // (a) makeMoE: D 128, 8 layers, E 8, K 2, 16 x 32 tokens, dropout 0.1
Workload gpt2_moe_two_layers(int threads);  // (b) D 768, E 8, K 2, Dff 3072, V 50,257, 4 x 256 tokens
Workload gpt2_moe(int threads);             //     the same with all 12 layers, 520 M weights
Workload fine_grained(int threads);         // (c) D 512, 8 layers, E 64, K 8, Dff 256, V 65, 4 x 256 tokens
Workload fine_grained_words(int threads);   //     the same with V 50,257
Workload gpt2_dense(int threads);           // GPT-2 124M, tied head, 4 x 64 tokens

// Generation of one token for each sequence, from a quarter of the context to all of it, then again.
struct Writing {
  double bytes = 0;  // of the weights used per token: without embedding look-ups, with a tied head
  std::function<void()> next;
  // Least seconds of a call of `next`, in the mean of those so far: the sum over products of max(bytes /
  // bandwidth, FLOPs / peak), with the experts that were met, and the cached keys and values.
  std::function<double(double bandwidth, double peak)> bound;
};
Writing makemoe_writing(int sequences, int threads);
Writing gpt2_dense_writing(int sequences, int threads);
Writing gpt2_dense_bf16_writing(int sequences, int threads);
Writing gpt2_dense_int8_writing(int sequences, int threads);
Writing gpt2_moe_two_layers_writing(int sequences, int threads);
Writing fine_grained_writing(int sequences, int threads);

// Reading of a prompt of 1,000 tokens in pieces of 256, with the logits of its last token.
Workload gpt2_dense_prompt(int threads);
Workload gpt2_moe_two_layers_prompt(int threads);

// Available memory in bytes.
double memory_available();

}  // namespace bench
