#include "training.hpp"

#include <fstream>

namespace bench {

namespace {

constexpr Config makemoe_config{.vocab = 65,
                                .context = 32,
                                .dim = 128,
                                .layers = 8,
                                .heads = 8,
                                .activation = Activation::relu,
                                .head_bias = true};
constexpr Config gpt2_config{.vocab = 50257,
                             .context = 1024,
                             .dim = 768,
                             .layers = 12,
                             .heads = 12,
                             .attention_bias = true,
                             .tied = true};
constexpr Config fine_config{
    .vocab = 65, .context = 256, .dim = 512, .layers = 8, .heads = 8, .hidden = 256, .tied = true};

constexpr Config with_layers(Config c, int layers) { return c.layers = layers, c; }
constexpr Config with_vocab(Config c, int vocab) { return c.vocab = vocab, c; }

using MakeMoE = GPT<makemoe_config, NoisyTopKRouter<8, 2, NoisyTopK{.bias = true}>>;
template <class N = float>
using FineGrained = GPT<fine_config, TopKRouter<64, 8>, N>;

}  // namespace

Workload makemoe(int threads) {
  return workload<MakeMoE>("a: makeMoE", {16, 32}, threads, {.dropout = 0.1},
                           {.attention_scale = 0.08838834764831845});  // 1 / sqrt(128)
}
Workload gpt2_moe_two_layers(int threads) {
  return workload<GPT<with_layers(gpt2_config, 2), TopKRouter<8, 2>>>("b: GPT-2 MoE, 2 layers", {4, 256},
                                                                      threads);
}
Workload gpt2_moe(int threads) {
  return workload<GPT<gpt2_config, TopKRouter<8, 2>>>("b: GPT-2 MoE, 12 layers", {4, 256}, threads);
}
Workload fine_grained(int threads) {
  return workload<FineGrained<>>("c: fine-grained, V 65", {4, 256}, threads);
}
Workload fine_grained_words(int threads) {
  return workload<GPT<with_vocab(fine_config, 50257), TopKRouter<64, 8>>>("c: fine-grained, V 50257",
                                                                          {4, 256}, threads);
}
Workload gpt2_dense(int threads) { return workload<GPT<gpt2_config>>("dense GPT-2 124M", {4, 64}, threads); }

Writing makemoe_writing(int sequences, int threads) { return writing<MakeMoE>(sequences, threads); }
Writing gpt2_dense_writing(int sequences, int threads) {
  return writing<GPT<gpt2_config, Dense, Stored<float>>>(sequences, threads);
}
Writing gpt2_dense_bf16_writing(int sequences, int threads) {
  return writing<GPT<gpt2_config, Dense, Stored<float, BF16>>>(sequences, threads);
}
Writing gpt2_dense_int8_writing(int sequences, int threads) {
  return writing<GPT<gpt2_config, Dense, Stored<float, INT8>>>(sequences, threads);
}
Writing gpt2_moe_two_layers_writing(int sequences, int threads) {
  return writing<GPT<with_layers(gpt2_config, 2), TopKRouter<8, 2>, Stored<float>>>(sequences, threads);
}
Writing fine_grained_writing(int sequences, int threads) {
  return writing<FineGrained<Stored<float>>>(sequences, threads);
}

Workload gpt2_dense_prompt(int threads) {
  return prompt<GPT<gpt2_config, Dense, Stored<float>>>("dense GPT-2 124M", threads);
}
Workload gpt2_moe_two_layers_prompt(int threads) {
  return prompt<GPT<with_layers(gpt2_config, 2), TopKRouter<8, 2>, Stored<float>>>("b: GPT-2 MoE, 2 layers",
                                                                                   threads);
}

double memory_available() {
  std::ifstream info("/proc/meminfo");
  std::string word;
  double kilobytes = 0;
  while (info >> word)
    if (word == "MemAvailable:") info >> kilobytes;
  return 1024 * kilobytes;
}

}  // namespace bench
