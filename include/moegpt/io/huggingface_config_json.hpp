#pragma once
// config.json of a model, as Hugging Face's transformers reads it: the reverse of huggingface_config.hpp.
#include <moegpt/io/huggingface_config.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace huggingface {

// The part of a router's text that chooses experts, and the shared experts around it (0: none).
struct RoutingText {
  const TypeTree* router;
  std::int64_t shared = 0;
};
inline RoutingText routing_of(const TypeTree& recipe) {
  RoutingText routing{&recipe};
  while (!routing.router->parts.empty() &&
         (routing.router->name == "SharedExperts" || routing.router->name == "AllowConstantGate")) {
    if (routing.router->name == "SharedExperts")
      routing.shared = routing.router->parts.size() > 1 ? routing.router->parts[1].number : 1;
    routing.router = &routing.router->parts[0];
  }
  return routing;
}

inline void add_sigmoid(nlohmann::ordered_json& json, const TypeTree& router) {
  const bool plain = router.parts.size() < 3;
  json["norm_topk_prob"] = plain && router.parts[1].number > 1;
  json["n_group"] = 1, json["topk_group"] = 1, json["routed_scaling_factor"] = 1.0;
  if (plain) return;
  const TypeTree& options = router.parts[2];
  if (const TypeTree* normalise = options.find("normalise"))
    json["norm_topk_prob"] = normalise->value == "true";
  if (const TypeTree* groups = options.find("groups")) json["n_group"] = groups->number;
  if (const TypeTree* kept = options.find("groups_kept"))
    json["topk_group"] = std::max<std::int64_t>(kept->number, 1);
  if (router.parts.size() > 3)
    json["routed_scaling_factor"] =
        static_cast<double>(router.parts[3].parts[0].number) /
        static_cast<double>(router.parts[3].parts.size() > 1 ? router.parts[3].parts[1].number : 1);
}

inline void add_mixtures(nlohmann::ordered_json& json, const Family& family, const TypeTree& recipe,
                         const Config& c) {
  const auto [router, shared] = routing_of(recipe);
  const bool every = family.mixtures == Mixtures::every_layer;
  json["intermediate_size"] = every ? c.expert_width() : c.dense_width();
  if (!every) json["moe_intermediate_size"] = c.expert_width();
  if (router->parts.size() < 2) return;  // not a router of these families
  const bool deepseek = family.mixtures == Mixtures::after_dense;
  const bool local = family.always_normalised;
  json[deepseek ? "n_routed_experts" : local ? "num_local_experts" : "num_experts"] = router->parts[0].number;
  json["num_experts_per_tok"] = router->parts[1].number;
  if (family.sigmoid) {
    add_sigmoid(json, *router);
  } else if (!family.always_normalised) {
    const TypeTree* gates = router->parts.size() > 2 ? router->parts[2].find("gates") : nullptr;
    json["norm_topk_prob"] = gates ? gates->value == "renormalised" : router->parts[1].number > 1;
  }
  std::vector<int> dense;
  for (int layer = 0; layer < c.layers; ++layer)
    if (!c.is_moe(layer)) dense.push_back(layer);
  if (family.mixtures == Mixtures::sparse_step) {
    if (shared > 0) json["shared_expert_intermediate_size"] = shared * c.expert_width();
    json["decoder_sparse_step"] = 1;
    json["mlp_only_layers"] = dense;
  }
  if (!deepseek) return;
  if (shared > 0) json["n_shared_experts"] = shared;
  json["first_k_dense_replace"] = dense.size();
  if (family.name != "deepseek") return;
  json["scoring_func"] = "softmax";
  json["moe_layer_freq"] = 1;
  for (int step = 2; step <= c.layers; ++step)  // layers from the first mixture on, or every so many
    for (int first = 0; first < c.layers; ++first) {
      bool fits = true;
      for (int layer = 0; fits && layer < c.layers; ++layer)
        fits = c.is_moe(layer) == (layer >= first && layer % step == 0);
      if (fits) json["moe_layer_freq"] = step, json["first_k_dense_replace"] = first;
    }
}

// What the family's config.json cannot say is left out.
inline nlohmann::ordered_json config_json(const std::string& name, const TypeTree& type, const Config& c,
                                          const ModelOptions& options) {
  const Family& family = family_of(name);
  constexpr const char* activations[] = {"gelu_new", "gelu", "relu", "silu", "tanh"};
  const char* const activation = activations[static_cast<int>(c.activation)];
  if (name == "gpt2")
    return {{"model_type", name},
            {"architectures", {family.architecture}},
            {"vocab_size", c.vocab},
            {"n_positions", c.context},
            {"n_embd", c.dim},
            {"n_layer", c.layers},
            {"n_head", c.heads},
            {"n_inner", c.expert_width()},
            {"activation_function", activation},
            {"layer_norm_epsilon", options.norm_epsilon},
            {"tie_word_embeddings", c.tied}};
  const nlohmann::ordered_json rotary = rotary_json(c, options, family.partial_rotary != 1);
  nlohmann::ordered_json json = {{"model_type", name},
                                 {"architectures", {family.architecture}},
                                 {"vocab_size", c.vocab},
                                 {"max_position_embeddings", c.context},
                                 {"hidden_size", c.dim},
                                 {"num_hidden_layers", c.layers},
                                 {"num_attention_heads", c.heads},
                                 {"num_key_value_heads", c.attention().key_value_heads()},
                                 {"hidden_act", activation},
                                 {"rms_norm_eps", options.norm_epsilon},
                                 {"rope_theta", options.rotary_base},  // before version 5 of transformers
                                 {"rope_parameters", rotary},
                                 {"tie_word_embeddings", c.tied}};
  if (rotary["rope_type"] != "default") {
    json["rope_scaling"] = rotary;  // before version 5
    if (name == "deepseek") json["rope_scaling"]["type"] = rotary["rope_type"];
  }
  if (rotary.contains("partial_rotary_factor"))
    json["partial_rotary_factor"] = rotary["partial_rotary_factor"];
  if (name != "olmoe" && name != "deepseek") json["head_dim"] = c.attention().width();
  if (name == "glm4_moe") json["use_qk_norm"] = c.query_key_norm == QueryKeyNorm::head;
  if (name == "qwen2_moe") json["qkv_bias"] = c.attention_bias;
  if (family.biases != Biases::none && !family.biases_usual) json["attention_bias"] = c.attention_bias;
  if (name == "llama") json["mlp_bias"] = c.expert_bias;
  if (name == "glm4_moe") json["num_nextn_predict_layers"] = 0;

  if (c.window > 0 || name == "mixtral" || name == "dots1") json["sliding_window"] = nullptr;
  if (c.window > 0) {
    json["sliding_window"] = c.window;
    if (name != "mixtral" && name != "dots1") json["use_sliding_window"] = true;
    if (family.windows == Windows::late || family.windows == Windows::even_early) {
      std::vector<const char*> types;
      for (int layer = 0; layer < c.layers; ++layer)
        types.push_back(c.attention().has_window(layer) ? "sliding_attention" : "full_attention");
      json["max_window_layers"] = 0;
      json["layer_types"] = types;
    }
  }
  if (name == "olmoe" && options.qkv_clip > 0) json["clip_qkv"] = options.qkv_clip;
  if (name == "granitemoe") {
    json["embedding_multiplier"] = options.embedding_scale;
    json["residual_multiplier"] = options.residual_scale;
    json["logits_scaling"] = 1 / options.logit_scale;
    json["attention_multiplier"] =
        options.attention_scale > 0 ? options.attention_scale : usual_attention_scale(c);
  }
  if (family.mixtures == Mixtures::none)
    json["intermediate_size"] = c.expert_width();
  else
    add_mixtures(json, family, type.parts[1], c);
  return json;
}

// config.json of a model of this type, the text of which has a canonical Config. Throws std::invalid_argument
// if the family cannot state the type or the options.
inline nlohmann::ordered_json stated_config(const std::string& file, const std::string& family,
                                            const std::string& type, const Config& config,
                                            const ModelOptions& options) {
  nlohmann::ordered_json json = config_json(family, parse_type(type), config, options);
  const nlohmann::json again = json;
  HuggingFaceModel stated;
  try {
    stated = ConfigReader(file, again).read();
  } catch (const std::runtime_error& error) {
    reject("a config.json of ", family, " cannot state a ", type, ": ", error.what());
  }
  stated.config = canonical(stated.config);
  check(stated.type() == type, "a config.json of ", family, " cannot state a ", type, ": ",
        detail::type_difference(type, stated.type()));
  std::string different;
  for (const auto& [name, member] : safetensors::option_fields) {
    const double ours = options.*member, theirs = stated.options.*member;
    if (std::abs(ours - theirs) > 1e-15 * std::abs(ours))  // logits_scaling is a reciprocal
      (different += different.empty() ? "" : ", ") += name;
  }
  check(different.empty(), "a config.json of ", family,
        " cannot state these options of the model: ", different, "; expected their defaults");
  return json;
}

}  // namespace huggingface

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
