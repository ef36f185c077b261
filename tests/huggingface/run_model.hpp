#pragma once
// The models of compare.py and of tests/golden/huggingface: a directory in Hugging Face's layout is run on
// its batch, and logits, losses and gradients are written under the names of its tensors.
#include <moegpt/io/huggingface.hpp>
#include <moegpt/moegpt.hpp>

namespace huggingface_models {

using namespace moegpt;

inline constexpr Config llama_blocks(Config c) {
  c.norm = Norm::rms, c.positions = Positions::rotary, c.activation = Activation::silu, c.gated = true;
  c.output_bias = c.expert_bias = false;
  return c;
}
inline constexpr Config gpt2_config{.vocab = 61,
                                    .context = 80,
                                    .dim = 20,
                                    .layers = 2,
                                    .heads = 4,
                                    .hidden = 36,
                                    .attention_bias = true,
                                    .tied = true};
inline constexpr Config small_llama = llama_blocks(
    {.vocab = 61, .context = 80, .dim = 24, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 44});
inline constexpr Config small_qwen2 = [] {
  Config c = small_llama;
  c.attention_bias = c.tied = true;
  return c;
}();
inline constexpr Config small_mixtral = [] {
  Config c = small_llama;
  c.hidden = 20;
  return c;
}();
inline constexpr Config small_qwen2_moe = [] {
  Config c = llama_blocks({.vocab = 61, .context = 80, .dim = 24, .layers = 3, .heads = 4, .hidden = 12});
  c.dense_hidden = 36, c.attention_bias = true, c.mixture_at = {0, 2};
  return c;
}();

// Of `small` in models.py.
inline constexpr Config small_olmoe = [] {
  Config c = llama_blocks(
      {.vocab = 31, .context = 80, .dim = 16, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 7});
  c.query_key_norm = QueryKeyNorm::full;
  return c;
}();
inline constexpr Config small_qwen3 = [] {
  Config c = llama_blocks(
      {.vocab = 31, .context = 80, .dim = 12, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 8});
  c.hidden = 18, c.query_key_norm = QueryKeyNorm::head, c.rotary_scaling = RotaryScaling::llama3;
  c.tied = true;
  return c;
}();
inline constexpr Config small_qwen3_moe = [] {
  Config c = small_qwen3;
  c.layers = 3, c.hidden = 5, c.dense_hidden = 18, c.mixture_at = {0, 2}, c.tied = false;
  c.rotary_scaling = RotaryScaling::yarn;
  return c;
}();
inline constexpr Config small_granitemoe = [] {
  Config c = small_olmoe;
  c.query_key_norm = QueryKeyNorm::none, c.rotary_scaling = RotaryScaling::linear, c.tied = true;
  return c;
}();
inline constexpr Config small_dots1 = [] {
  Config c = small_qwen3_moe;
  c.head_dim = 6, c.dense_hidden = 17, c.dense_first = 1, c.mixture_at = {};
  c.rotary_scaling = RotaryScaling::none;
  return c;
}();
inline constexpr Config small_glm4_moe = [] {
  Config c = small_dots1;
  c.layers = 2, c.head_dim = 8, c.rotary_dim = 4, c.query_key_norm = QueryKeyNorm::none;
  c.attention_bias = true;
  return c;
}();
inline constexpr Config small_deepseek = [] {
  Config c = llama_blocks({.vocab = 31, .context = 80, .dim = 16, .layers = 3, .heads = 4, .hidden = 5});
  c.dense_hidden = 19, c.dense_first = 1;
  return c;
}();

// f.template operator()<Model>() for the model that a directory states.
template <class T, class F>
void with_model(const std::filesystem::path& directory, F&& f) {
  const std::string family = read_huggingface_config(directory).family;
  const auto call = [&]<Config C, class Recipe>() { f.template operator()<GPT<C, Recipe, T>>(); };
  if (family == "gpt2") return call.template operator()<gpt2_config, Dense>();
  if (family == "llama") return call.template operator()<small_llama, Dense>();
  if (family == "qwen2") return call.template operator()<small_qwen2, Dense>();
  if (family == "mixtral") return call.template operator()<small_mixtral, TopKRouter<5, 2>>();
  if (family == "qwen2_moe") {
    using Routed = TopKRouter<6, 3, TopK{.gates = Gates::probability}>;
    return call.template operator()<small_qwen2_moe, SharedExperts<Routed, 2, Shared::gated>>();
  }
  using Probability53 = TopKRouter<5, 3, TopK{.gates = Gates::probability}>;
  if (family == "olmoe") return call.template operator()<small_olmoe, Probability53>();
  if (family == "qwen3") return call.template operator()<small_qwen3, Dense>();
  if (family == "qwen3_moe") return call.template operator()<small_qwen3_moe, TopKRouter<6, 2>>();
  if (family == "granitemoe") return call.template operator()<small_granitemoe, TopKRouter<5, 2>>();
  if (family == "dots1") {
    using Routed = SigmoidRouter<8, 3, Sigmoid{.groups = 4, .groups_kept = 2}, std::ratio<5, 2>>;
    return call.template operator()<small_dots1, SharedExperts<Routed, 2>>();
  }
  if (family == "glm4_moe") {
    using Routed = SigmoidRouter<5, 2, Sigmoid{.normalise = false}, std::ratio<5, 4>>;
    return call.template operator()<small_glm4_moe, SharedExperts<Routed>>();
  }
  if (family == "deepseek") {
    using Routed = TopKRouter<6, 3, TopK{.gates = Gates::probability}>;
    return call.template operator()<small_deepseek, SharedExperts<Routed, 2>>();
  }
  reject("no model of the family ", family, " is compiled in");
}

// ids [batch, length], F64 in batch.safetensors: below 0 where a sequence has ended.
inline Batch read_batch(const std::filesystem::path& path) {
  const SafetensorsFile file = read_safetensors(path);
  const TensorInfo& info = file.header.tensors.at("ids");
  Batch batch{.shape = {info.shape[0], info.shape[1]}};
  const std::string bytes = file.bytes(info);
  for_each_number<double>(info.dtype, bytes.data(), batch.shape.tokens(),
                          [&](Index, double id) { batch.inputs.push_back(static_cast<int>(id)); });
  for (Index b = 0; b < batch.shape.batch; ++b) {
    Index length = 0;
    for (Index t = 0; t < batch.shape.length; ++t) {
      int& id = batch.inputs[static_cast<std::size_t>(b * batch.shape.length + t)];
      length += id >= 0;
      id = std::max(id, 0);
    }
    batch.lengths.push_back(length);
    for (Index t = 0; t < batch.shape.length; ++t)
      batch.targets.push_back(
          t + 1 < length ? batch.inputs[static_cast<std::size_t>(b * batch.shape.length + t + 1)] : -1);
  }
  return batch;
}

template <class Model>
void run(const std::filesystem::path& directory, const std::filesystem::path& out) {
  using T = typename Model::Scalar;
  Model model, grad;
  const HuggingFaceModel described = load_huggingface(directory, model);
  const Batch batch = read_batch(directory / "batch.safetensors");
  typename Model::Workspace work{batch.shape, Exec{}, described.objective};
  const Loss loss = model.forward(batch, work);
  set_zero(grad);
  model.backward(batch, work, grad);
  const DType dtype = dtype_of<T>();
  auto tensors = huggingface::exports_of(described.family, Model::config, grad, "gradients", dtype);
  std::erase_if(tensors, [](const auto& tensor) { return tensor.name.ends_with("e_score_correction_bias"); });
  for (auto& tensor : tensors) tensor.name.insert(0, "grad.");
  const T losses[] = {static_cast<T>(loss.cross_entropy),
                      static_cast<T>(described.objective.balance > 0 ? loss.balance : 0)};
  const auto& logits = work.tape.head.logits;
  const auto add = [&](const char* name, std::vector<Index> shape, const T* data, Index count) {
    tensors.push_back({name, dtype, std::move(shape), [=](safetensors::ByteSink sink) {
                         sink({reinterpret_cast<const char*>(data), bytes_of<T>(count)});
                       }});
  };
  add("losses", {2}, losses, 2);
  add("logits", {batch.shape.batch, batch.shape.length, Model::config.vocab}, logits[0],
      batch.shape.tokens() * Model::config.vocab);
  const auto prepared = safetensors::prepared(out.string(), std::move(tensors), {});
  write_file_atomically(out, [&](FileWriter& file) { prepared.write(file); });
}

}  // namespace huggingface_models
