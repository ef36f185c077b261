#pragma once
// config.json of Hugging Face's transformers as a model type and its options, and the reverse. A key that is
// not known is an error, because it may change what the weights mean.
#include <moegpt/io/json_document.hpp>
#include <moegpt/io/model_file.hpp>
#include <moegpt/io/type_text.hpp>

#include <filesystem>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct HuggingFaceModel {
  std::string family{};  // model_type: gpt2, llama, qwen2, mixtral, qwen2_moe
  Config config{};
  std::string recipe = "Dense";  // text of the router specification
  ModelOptions options{};
  Objective objective{};  // what the family is trained with

  // As to_text<Model>().
  std::string type() const {
    std::string text = "GPT<";
    text += to_text(config);
    text += ", ";
    text += recipe;
    return text += ">";
  }
};

namespace huggingface {

inline constexpr const char* families[] = {"gpt2", "llama", "qwen2", "mixtral", "qwen2_moe"};

// Keys that say nothing about what the weights compute, or only about training and generation.
inline constexpr const char* ignored_keys[] = {"_name_or_path",
                                               "architectures",
                                               "attention_dropout",
                                               "attn_pdrop",
                                               "auto_map",
                                               "bos_token_id",
                                               "chunk_size_feed_forward",
                                               "dtype",
                                               "embd_pdrop",
                                               "eos_token_id",
                                               "gradient_checkpointing",
                                               "id2label",
                                               "initializer_range",
                                               "is_encoder_decoder",
                                               "keys_to_ignore_at_inference",
                                               "label2id",
                                               "max_window_layers",
                                               "n_ctx",
                                               "output_attentions",
                                               "output_hidden_states",
                                               "output_router_logits",
                                               "pad_token_id",
                                               "pretraining_tp",
                                               "problem_type",
                                               "resid_pdrop",
                                               "return_dict",
                                               "router_jitter_noise",
                                               "sep_token_id",
                                               "summary_activation",
                                               "summary_first_dropout",
                                               "summary_proj_to_labels",
                                               "summary_type",
                                               "summary_use_proj",
                                               "task_specific_params",
                                               "torch_dtype",
                                               "transformers_version",
                                               "unk_token_id",
                                               "use_cache"};

class ConfigReader {
 public:
  ConfigReader(const std::string& name, const nlohmann::json& json)
      : name_(name), fields_(name, json), json_(json) {}

  HuggingFaceModel read() {
    model_.family = fields_.text("model_type");
    used_.insert("model_type");
    const auto& family = model_.family;
    if (std::find(std::begin(families), std::end(families), family) == std::end(families))
      reject_file(name_, "\"model_type\" is ", shown(family),
                  ", expected one of gpt2, llama, qwen2, mixtral, qwen2_moe");
    family == "gpt2" ? gpt2() : llama();
    for (const char* key : ignored_keys) used_.insert(key);
    for (const auto& [key, value] : json_.items())
      if (!used_.contains(key))
        reject_file(name_, "the key ", shown(key), " (", shown(value.dump()), ") is not known for ", family,
                    ": it may change what the model computes");
    return std::move(model_);
  }

 private:
  bool has(const char* key) {
    used_.insert(key);
    return fields_.has(key) && !json_[key].is_null();
  }
  int integer(const char* key, Index least, Index most) {
    used_.insert(key);
    return static_cast<int>(fields_.integer(key, least, most));
  }
  int integer_or(const char* key, int usual, Index least, Index most) {
    return has(key) ? integer(key, least, most) : usual;
  }
  double number_or(const char* key, double usual) { return has(key) ? fields_.number(key) : usual; }
  bool flag_or(const char* key, bool usual) { return has(key) ? fields_.boolean(key) : usual; }
  // The key, if it is there, must have this value.
  template <class Value>
  void expect(const char* key, const Value& value) {
    if (has(key) && json_[key] != value)
      reject_file(name_, "\"", key, "\" is ", shown(json_[key].dump()), ", which is not supported; expected ",
                  nlohmann::json(value).dump());
  }
  Activation activation_of(const char* key, const char* usual) {
    const std::string name = has(key) ? fields_.text(key) : usual;
    if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::gelu;
    if (name == "gelu") return Activation::gelu_erf;
    if (name == "silu" || name == "swish") return Activation::silu;
    if (name == "relu") return Activation::relu;
    reject_file(name_, "\"", key, "\" is ", shown(name), ", expected gelu_new, gelu, silu or relu");
  }

  static constexpr Index most_width = 1 << 20;
  void gpt2() {
    Config& c = model_.config;
    c.vocab = integer("vocab_size", 1, 1 << 22), c.context = integer("n_positions", 1, most_width);
    c.dim = integer("n_embd", 1, most_width), c.layers = integer("n_layer", 1, 4096),
    c.heads = integer("n_head", 1, 4096);
    c.hidden = integer_or("n_inner", 0, 1, most_width);
    if (c.hidden == 4 * c.dim) c.hidden = 0;
    c.activation = activation_of("activation_function", "gelu_new");
    c.attention_bias = true;
    c.tied = flag_or("tie_word_embeddings", true);
    expect("scale_attn_weights", true);
    for (const char* key :
         {"scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"})
      expect(key, false);
    model_.options.norm_epsilon = number_or("layer_norm_epsilon", 1e-5);
  }
  // Blocks of Llama: RMSNorm, rotary positions, gated experts.
  void llama() {
    const std::string& family = model_.family;
    Config& c = model_.config;
    c.vocab = integer("vocab_size", 1, 1 << 22),
    c.context = integer("max_position_embeddings", 1, most_width);
    c.dim = integer("hidden_size", 1, most_width), c.layers = integer("num_hidden_layers", 1, 4096);
    c.heads = integer("num_attention_heads", 1, 4096);
    c.kv_heads = integer_or("num_key_value_heads", 0, 1, 4096);
    if (c.kv_heads == c.heads) c.kv_heads = 0;
    c.head_dim = integer_or("head_dim", 0, 1, most_width);
    if (c.head_dim * c.heads == c.dim) c.head_dim = 0;
    c.norm = Norm::rms, c.positions = Positions::rotary, c.gated = true;
    c.activation = activation_of("hidden_act", "silu");
    c.output_bias = c.expert_bias = false;
    c.tied = flag_or("tie_word_embeddings", false);
    model_.options.norm_epsilon =
        number_or("rms_norm_eps", family == "llama" || family == "qwen2" ? 1e-6 : 1e-5);
    rotary();
    window();
    if (family == "llama") {
      c.attention_bias = c.output_bias = flag_or("attention_bias", false);
      c.expert_bias = flag_or("mlp_bias", false);
    } else if (family != "mixtral") {
      c.attention_bias = flag_or("qkv_bias", true);
      expect("attention_bias", true);
    }
    c.hidden = integer(family == "qwen2_moe" ? "moe_intermediate_size" : "intermediate_size", 1, most_width);
    if (family == "mixtral" || family == "qwen2_moe") mixtures();
    if (c.hidden == 4 * c.dim) c.hidden = 0;
  }
  void rotary() {
    model_.options.rotary_base = number_or("rope_theta", model_.family == "mixtral" ? 1e6 : 10000);
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
      if (!has(key)) continue;
      const JsonObject inner(name_ + ": " + key, json_[key]);
      for (const auto& [member, value] : json_[key].items()) {
        const bool plain = (member == "rope_type" || member == "type") && value == "default";
        if (member == "rope_theta")
          model_.options.rotary_base = inner.number("rope_theta");
        else if (!plain)
          reject_file(name_, "\"", key, "\" has ", shown(member), " ", shown(value.dump()),
                      ", which is not supported; expected rope_type \"default\" and rope_theta");
      }
    }
  }
  void window() {
    const int found = integer_or("sliding_window", 0, 0, 1 << 30);
    const bool used = flag_or("use_sliding_window", model_.family == "mixtral") && found > 0;
    if (used && found < model_.config.context) model_.config.window = found;
    if (has("layer_types"))
      for (const nlohmann::json& type : fields_.list("layer_types"))
        if (type != (used ? "sliding_attention" : "full_attention"))
          reject_file(name_, "\"layer_types\" has ", shown(type.dump()), ", expected all layers alike, \"",
                      used ? "sliding_attention" : "full_attention", "\"");
  }
  void mixtures() {
    Config& c = model_.config;
    const bool mixtral = model_.family == "mixtral";
    const char* const experts_key = has("num_experts") || !mixtral ? "num_experts" : "num_local_experts";
    const int experts = integer(experts_key, 1, 1024), active = integer("num_experts_per_tok", 1, 1024);
    const bool renormalised = mixtral || flag_or("norm_topk_prob", false);
    std::string router = "TopKRouter<";
    router += std::to_string(experts);
    router += ", ";
    router += std::to_string(active);
    router += renormalised ? ">" : ", TopK{.gates = Gates::probability}>";
    model_.objective.balance = number_or("router_aux_loss_coef", 0.001);
    model_.objective.balance_rule = BalanceRule::huggingface;
    model_.recipe = router;
    if (mixtral) return;

    const int shared = integer("shared_expert_intermediate_size", 1, most_width);
    if (shared % c.hidden != 0)
      reject_file(name_, "\"shared_expert_intermediate_size\" is ", shared, ", expected a multiple of ",
                  "\"moe_intermediate_size\", ", c.hidden);
    model_.recipe = "SharedExperts<";
    model_.recipe += router;
    model_.recipe += ", ";
    model_.recipe += std::to_string(shared / c.hidden);
    model_.recipe += ", Shared::gated>";
    const int dense = integer("intermediate_size", 1, most_width);
    const int step = integer_or("decoder_sparse_step", 1, 1, 4096);
    std::set<Index> dense_layers;
    if (has("mlp_only_layers"))
      for (const Index layer : fields_.integers("mlp_only_layers", 0, c.layers - 1))
        dense_layers.insert(layer);
    if (step > 1 || !dense_layers.empty()) c.dense_hidden = dense == c.hidden ? 0 : dense;
    c.moe_every = step;
    if (dense_layers.empty()) return;
    if (c.layers > LayerSet::most)
      reject_file(name_, "\"mlp_only_layers\" of ", c.layers, " layers, expected at most ", LayerSet::most);
    c.moe_every = 1;
    c.mixture_at = [&](int layer) {
      return layer < c.layers && (layer + 1) % step == 0 && !dense_layers.contains(layer);
    };
  }

  std::string name_;
  JsonObject fields_;
  const nlohmann::json& json_;
  HuggingFaceModel model_;
  std::set<std::string> used_;
};

// config.json of a model of this family; what it cannot say is left out.
inline nlohmann::ordered_json config_json(const std::string& family, const TypeTree& type, const Config& c,
                                          const ModelOptions& options) {
  const auto activation = [&] {
    constexpr const char* names[] = {"gelu_new", "gelu", "relu", "silu", "tanh"};
    return names[static_cast<int>(c.activation)];
  };
  if (family == "gpt2")
    return {{"model_type", "gpt2"},
            {"architectures", {"GPT2LMHeadModel"}},
            {"vocab_size", c.vocab},
            {"n_positions", c.context},
            {"n_embd", c.dim},
            {"n_layer", c.layers},
            {"n_head", c.heads},
            {"n_inner", c.expert_width()},
            {"activation_function", activation()},
            {"layer_norm_epsilon", options.norm_epsilon},
            {"tie_word_embeddings", c.tied}};
  const std::map<std::string, const char*> architectures = {{"llama", "LlamaForCausalLM"},
                                                            {"qwen2", "Qwen2ForCausalLM"},
                                                            {"mixtral", "MixtralForCausalLM"},
                                                            {"qwen2_moe", "Qwen2MoeForCausalLM"}};
  const auto architecture = architectures.find(family);
  check(architecture != architectures.end(), "the family of checkpoints is ", shown(family),
        ", expected one of gpt2, llama, qwen2, mixtral, qwen2_moe");
  nlohmann::ordered_json json = {
      {"model_type", family},
      {"architectures", {architecture->second}},
      {"vocab_size", c.vocab},
      {"max_position_embeddings", c.context},
      {"hidden_size", c.dim},
      {"num_hidden_layers", c.layers},
      {"num_attention_heads", c.heads},
      {"num_key_value_heads", c.attention().key_value_heads()},
      {"hidden_act", activation()},
      {"rms_norm_eps", options.norm_epsilon},
      {"rope_theta", options.rotary_base},  // before version 5 of transformers
      {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", options.rotary_base}}},
      {"tie_word_embeddings", c.tied}};
  const bool qwen_moe = family == "qwen2_moe", mixtral = family == "mixtral";
  if (!qwen_moe) json["intermediate_size"] = c.expert_width();
  if (family == "llama" || mixtral) json["head_dim"] = c.attention().width();
  if (family == "llama") json["attention_bias"] = c.attention_bias, json["mlp_bias"] = c.expert_bias;
  if (mixtral || c.window > 0) json["sliding_window"] = nullptr;
  if (c.window > 0) json["sliding_window"] = c.window;
  if (c.window > 0 && !mixtral) json["use_sliding_window"] = true, json["max_window_layers"] = 0;
  const TypeTree* recipe = &type.parts[1];
  if (qwen_moe) {
    json["moe_intermediate_size"] = c.expert_width();
    json["intermediate_size"] = c.dense_width();
    if (recipe->name == "SharedExperts" && recipe->parts.size() > 1)
      json["shared_expert_intermediate_size"] = recipe->parts[1].number * c.expert_width();
    std::vector<int> dense;
    for (int layer = 0; layer < c.layers; ++layer)
      if (!c.is_moe(layer)) dense.push_back(layer);
    json["decoder_sparse_step"] = 1;
    json["mlp_only_layers"] = dense;
    json["qkv_bias"] = c.attention_bias;
    if (!recipe->parts.empty()) recipe = &recipe->parts[0];
  }
  if ((mixtral || qwen_moe) && recipe->name == "TopKRouter") {
    json[mixtral ? "num_local_experts" : "num_experts"] = recipe->parts[0].number;
    json["num_experts_per_tok"] = recipe->parts[1].number;
    if (qwen_moe) json["norm_topk_prob"] = recipe->parts.size() < 3;
  }
  return json;
}

}  // namespace huggingface

// Reads DIRECTORY/config.json. Throws std::runtime_error for an invalid file, a family or a value that is not
// supported, and a key that is not known.
inline HuggingFaceModel read_huggingface_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  const nlohmann::json json = parse_json(path.string(), read_file(path, 1 << 20), 8);
  return huggingface::ConfigReader(path.string(), json).read();
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
