#pragma once
// The families of models in Hugging Face's layout: how they differ, and what their configuration classes say
// where config.json does not.
#include <moegpt/io/json.hpp>
#include <moegpt/model/config.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace huggingface {

enum class Biases { none, query_key_value, all };  // of attention's projections
// Which layers are mixtures, and the keys that say so.
enum class Mixtures {
  none,
  every_layer,  // intermediate_size is the width of an expert
  sparse_step,  // Qwen: decoder_sparse_step, mlp_only_layers, moe_intermediate_size
  after_dense,  // DeepSeek: first_k_dense_replace, moe_intermediate_size
};
// Layers with the sliding window, if config.json has no layer_types.
enum class Windows { none, all, late, even_early };  // late: from max_window_layers; even_early: before it

struct Family {
  std::string_view name, architecture;
  Mixtures mixtures = Mixtures::none;
  double norm_epsilon = 1e-6, rotary_base = 10000;
  int head_dim = 0;  // 0: hidden_size / num_attention_heads
  QueryKeyNorm norms = QueryKeyNorm::none;
  Biases biases = Biases::none;  // that attention_bias (of Qwen 2: qkv_bias) turns on
  bool biases_usual = false;
  Windows windows = Windows::none;
  bool always_normalised = false;  // gates, without a key norm_topk_prob
  bool norm_topk_prob = false;
  bool sigmoid = false;          // scores, as in DeepSeek-V3
  bool stacked = false;          // the experts of a layer in two tensors [experts, ...]
  double partial_rotary = 1;     // not 1: the family has the key partial_rotary_factor
  bool key_value_heads = false;  // must be stated: the class has a number, not that of query heads
};

inline constexpr Family families[] = {
    {.name = "gpt2", .architecture = "GPT2LMHeadModel"},
    {.name = "llama", .architecture = "LlamaForCausalLM", .biases = Biases::all},
    {.name = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .biases = Biases::query_key_value,
     .biases_usual = true,
     .windows = Windows::late,
     .key_value_heads = true},
    {.name = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .head_dim = 128,
     .norms = QueryKeyNorm::head,
     .biases = Biases::all,
     .windows = Windows::late,
     .key_value_heads = true},
    {.name = "mixtral",
     .architecture = "MixtralForCausalLM",
     .mixtures = Mixtures::every_layer,
     .norm_epsilon = 1e-5,
     .rotary_base = 1e6,
     .windows = Windows::all,
     .always_normalised = true,
     .key_value_heads = true},
    {.name = "qwen2_moe",
     .architecture = "Qwen2MoeForCausalLM",
     .mixtures = Mixtures::sparse_step,
     .biases = Biases::query_key_value,
     .biases_usual = true,
     .windows = Windows::even_early,
     .key_value_heads = true},
    {.name = "qwen3_moe",
     .architecture = "Qwen3MoeForCausalLM",
     .mixtures = Mixtures::sparse_step,
     .norms = QueryKeyNorm::head,
     .biases = Biases::all,
     .windows = Windows::all,
     .key_value_heads = true},
    {.name = "olmoe",
     .architecture = "OlmoeForCausalLM",
     .mixtures = Mixtures::every_layer,
     .norm_epsilon = 1e-5,
     .norms = QueryKeyNorm::full,
     .biases = Biases::all},
    {.name = "granitemoe",
     .architecture = "GraniteMoeForCausalLM",
     .mixtures = Mixtures::every_layer,
     .biases = Biases::all,
     .always_normalised = true,
     .stacked = true},
    {.name = "dots1",
     .architecture = "Dots1ForCausalLM",
     .mixtures = Mixtures::after_dense,
     .norms = QueryKeyNorm::head,
     .biases = Biases::all,
     .windows = Windows::late,
     .sigmoid = true,
     .key_value_heads = true},
    {.name = "glm4_moe",
     .architecture = "Glm4MoeForCausalLM",
     .mixtures = Mixtures::after_dense,
     .norm_epsilon = 1e-5,
     .norms = QueryKeyNorm::head,  // if use_qk_norm
     .biases = Biases::query_key_value,
     .norm_topk_prob = true,
     .sigmoid = true,
     .partial_rotary = 0.5,
     .key_value_heads = true},
    {.name = "deepseek",  // DeepSeek-MoE 16B
     .architecture = "DeepseekForCausalLM",
     .mixtures = Mixtures::after_dense,
     .biases = Biases::all},
};

inline std::string family_names() {
  std::string names;
  for (const Family& family : families) (names += names.empty() ? "" : ", ") += family.name;
  return names;
}
// Null if there is none of this name.
inline const Family* find_family(std::string_view name) {
  const auto found = std::find_if(std::begin(families), std::end(families),
                                  [&](const Family& family) { return family.name == name; });
  return found == std::end(families) ? nullptr : found;
}
inline const Family& family_of(std::string_view name) {
  const Family* family = find_family(name);
  check(family, "the family of checkpoints is ", shown(std::string(name)), ", expected one of ",
        family_names());
  return *family;
}

}  // namespace huggingface

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
