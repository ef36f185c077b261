#include <moegpt/io/huggingface_config.hpp>
#include <moegpt/io/huggingface_config_json.hpp>

#include <moegpt/core/random.hpp>
#include <moegpt/model/presets.hpp>

#include "../support/catch.hpp"
#include "../support/refusal.hpp"
#include "../support/temporary_folder.hpp"

using namespace moegpt;

namespace {

std::string golden_text(const std::string& family) {
  return read_file(std::filesystem::path(MOEGPT_TESTS_DIR) / "golden" / "huggingface" / family /
                   "config.json");
}
HuggingFaceModel read_config(const std::string& text) {
  return huggingface::ConfigReader("config.json", parse_json("config.json", text)).read();
}
HuggingFaceModel changed(const std::string& family, auto change) {
  nlohmann::json json = nlohmann::json::parse(golden_text(family));
  change(json);
  return read_config(json.dump());
}
std::string refused(const std::string& family, auto change) {
  return refusal<std::runtime_error>([&] { changed(family, change); });
}

}  // namespace

using Json = nlohmann::json;

TEST_CASE("a config.json states a model type of the closed grammar") {
  CHECK(read_config(golden_text("gpt2")).type() ==
        "GPT<Config{.vocab = 61, .context = 80, .dim = 20, .layers = 2, .heads = 4, .hidden = 36, "
        ".attention_bias = true, .tied = true}, Dense>");
  const HuggingFaceModel qwen = read_config(golden_text("qwen2_moe"));
  CHECK_THAT(qwen.type(),
             ContainsSubstring(".mixture_at = {0, 2}}, SharedExperts<TopKRouter<6, 3, TopK{.gates = "
                               "Gates::probability}>, 2, Shared::gated>>"));
  CHECK(qwen.options.norm_epsilon == 1e-6);
  for (const huggingface::Family& family : huggingface::families) {
    const HuggingFaceModel model = read_config(golden_text(std::string(family.name)));
    CHECK(to_text(parse_type(model.type())) == model.type());
  }
}

TEST_CASE("published configurations are read") {  // of mistralai/Mixtral-8x7B-v0.1 and openai-community/gpt2
  const HuggingFaceModel mixtral =
      read_config(R"({"architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral",
    "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": false,
    "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
    "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "transformers_version": "4.36.0.dev0", "use_cache": true, "vocab_size": 32000})");
  CHECK(mixtral.type() == to_text<presets::ModelOf<presets::mixtral<>>>());
  CHECK(mixtral.options == presets::mixtral<>::options());
  const HuggingFaceModel gpt2 = read_config(
      R"({"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768,
    "n_head": 12, "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1,
    "summary_activation": null, "summary_first_dropout": 0.1, "summary_proj_to_labels": true,
    "summary_type": "cls_index", "summary_use_proj": true,
    "task_specific_params":
      {"text-generation": {"do_sample": true, "max_length": 50}},
    "vocab_size": 50257})");
  CHECK(gpt2.config == [] {
    Config c{.vocab = 50257, .context = 1024, .dim = 768, .layers = 12, .heads = 12};
    c.attention_bias = c.tied = true;
    return c;
  }());
}

TEST_CASE("rope_theta stands alone or in rope_parameters, and windows count if they are used") {
  CHECK(changed("llama", [](Json& j) {
          j["rope_parameters"] = {{"rope_theta", 5e5}, {"rope_type", "default"}};
        }).options.rotary_base == 5e5);
  CHECK(changed("llama", [](Json& j) {
          j.erase("rope_parameters"), j["rope_theta"] = 3e5;
        }).options.rotary_base == 3e5);
  CHECK(changed("mixtral", [](Json& j) { j["sliding_window"] = 16; }).config.window == 16);
  CHECK(changed("qwen2", [](Json& j) { j["sliding_window"] = 16; }).config.window == 0);
}

TEST_CASE("published configurations of mixtures with norms of queries and keys are read") {
  // of allenai/OLMoE-1B-7B-0924
  const HuggingFaceModel olmoe = read_config(
      R"({"architectures": ["OlmoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "clip_qkv": null, "eos_token_id": 50279, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 1024, "max_position_embeddings": 4096,
    "model_type": "olmoe", "norm_topk_prob": false, "num_attention_heads": 16, "num_experts": 64,
    "num_experts_per_tok": 8, "num_hidden_layers": 16, "num_key_value_heads": 16,
    "output_router_logits": false, "pad_token_id": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
    "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0", "use_cache": true,
    "vocab_size": 50304})");
  CHECK(olmoe.type() == to_text<presets::ModelOf<presets::olmoe<>>>());
  CHECK(olmoe.options == presets::olmoe<>::options());
  CHECK(olmoe.objective.balance == 0.01);
  // of Qwen/Qwen3-30B-A3B
  const HuggingFaceModel qwen3 =
      read_config(R"({"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false,
    "attention_dropout": 0.0, "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48,
    "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
    "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": false,
    "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
    "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false,
    "vocab_size": 151936})");
  CHECK(qwen3.type() == to_text<presets::ModelOf<presets::qwen3_moe<>>>());
  CHECK(qwen3.options == presets::qwen3_moe<>::options());
  // of Qwen/Qwen1.5-MoE-A2.7B
  const HuggingFaceModel qwen2 =
      read_config(R"({"architectures": ["Qwen2MoeForCausalLM"], "attention_dropout": 0.0,
    "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151643, "hidden_act": "silu",
    "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
    "max_position_embeddings": 8192, "max_window_layers": 21, "model_type": "qwen2_moe",
    "moe_intermediate_size": 1408, "norm_topk_prob": false, "num_attention_heads": 16, "num_experts": 60,
    "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16,
    "output_router_logits": false, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 5632, "sliding_window": 32768,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.40.0.dev0",
    "use_cache": true, "use_sliding_window": false, "vocab_size": 151936})");
  CHECK(qwen2.type() == to_text<presets::ModelOf<presets::qwen_moe<>>>());
  CHECK(qwen2.options == presets::qwen_moe<>::options());
  // of ibm-granite/granite-3.1-1b-a400m-instruct
  const HuggingFaceModel granite =
      read_config(R"({"architectures": ["GraniteMoeForCausalLM"], "attention_bias": false,
    "attention_dropout": 0.0, "attention_multiplier": 0.015625, "bos_token_id": 0,
    "embedding_multiplier": 12.0, "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 1024,
    "initializer_range": 0.02, "intermediate_size": 512, "logits_scaling": 6.0,
    "max_position_embeddings": 131072, "model_type": "granitemoe", "num_attention_heads": 16,
    "num_experts_per_tok": 8, "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32,
    "output_router_logits": false, "pad_token_id": 0, "residual_multiplier": 0.22, "rms_norm_eps": 1e-06,
    "rope_scaling": null, "rope_theta": 1500000.0, "router_aux_loss_coef": 0.0, "tie_word_embeddings": true,
    "torch_dtype": "bfloat16", "transformers_version": "4.47.0", "use_cache": true,
    "vocab_size": 49155})");
  using Granite = presets::granite_moe<presets::Extents{
      .vocab = 49155, .context = 131072, .dim = 1024, .layers = 24, .heads = 16}>;
  CHECK(granite.type() == to_text<presets::ModelOf<Granite>>());
  CHECK(granite.options == Granite::options());
  // of rednote-hilab/dots.llm1.base
  const HuggingFaceModel dots =
      read_config(R"({"architectures": ["Dots1ForCausalLM"], "attention_bias": false,
    "attention_dropout": 0.0, "bos_token_id": null, "eos_token_id": 151643, "first_k_dense_replace": 1,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 10944,
    "max_position_embeddings": 32768, "model_type": "dots1", "moe_intermediate_size": 1408,
    "moe_layer_freq": 1, "n_routed_experts": 128, "n_shared_experts": 2, "norm_topk_prob": true,
    "num_attention_heads": 32, "num_experts_per_tok": 6, "num_hidden_layers": 62,
    "num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
    "rope_theta": 10000000, "routed_scaling_factor": 2.5, "sliding_window": null,
    "scoring_func": "noaux_tc", "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "transformers_version": "4.46.3", "use_cache": true, "use_sliding_window": false,
    "vocab_size": 152064})");
  CHECK_THAT(
      dots.type(),
      ContainsSubstring(".dense_first = 1}, SharedExperts<SigmoidRouter<128, 6, Sigmoid{.normalise = true, "
                        ".selection_bias = true, .groups = 1, .groups_kept = 0, .root_softplus = "
                        "false}, std::ratio<5, 2>>, 2>>"));
  // of deepseek-ai/deepseek-moe-16b-base
  const HuggingFaceModel deepseek =
      read_config(R"({"architectures": ["DeepseekForCausalLM"], "attention_bias": false,
    "attention_dropout": 0.0, "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"},
    "aux_loss_alpha": 0.001, "bos_token_id": 100000, "eos_token_id": 100001, "first_k_dense_replace": 1,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 10944,
    "max_position_embeddings": 4096, "model_type": "deepseek", "moe_intermediate_size": 1408,
    "moe_layer_freq": 1, "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": false,
    "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 28,
    "num_key_value_heads": 16, "pretraining_tp": 1, "rms_norm_eps": 1e-06, "rope_scaling": null,
    "rope_theta": 10000, "scoring_func": "softmax", "seq_aux": true, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "transformers_version": "4.36.0", "use_cache": true,
    "vocab_size": 102400})");
  CHECK_THAT(deepseek.type(),
             ContainsSubstring(".hidden = 1408, .dense_hidden = 10944") &&
                 ContainsSubstring(".dense_first = 1}, SharedExperts<TopKRouter<64, 6, TopK{.gates = "
                                   "Gates::probability}>, 2>>"));
  CHECK((deepseek.objective.balance == 0.001 && deepseek.objective.balance_rule == BalanceRule::deepseek));
}

TEST_CASE("the router, the mixture layers and the numbers of each family are read") {
  const auto type = [](const std::string& family, auto change) { return changed(family, change).type(); };
  const auto nothing = [](Json&) {};
  CHECK_THAT(
      type("dots1", nothing),
      ContainsSubstring(".dense_first = 1}, SharedExperts<SigmoidRouter<8, 3, Sigmoid{.normalise = true, "
                        ".selection_bias = true, .groups = 4, .groups_kept = 2, .root_softplus = "
                        "false}, std::ratio<5, 2>>, 2>>"));
  CHECK_THAT(type("dots1",
                  [](Json& j) {
                    j["n_group"] = nullptr, j["topk_group"] = nullptr, j["routed_scaling_factor"] = 1;
                  }),
             ContainsSubstring("SharedExperts<SigmoidRouter<8, 3>, 2>>"));
  CHECK_THAT(
      type("dots1", [](Json& j) { j["num_experts_per_tok"] = 1; }),
      ContainsSubstring("SharedExperts<AllowConstantGate<SigmoidRouter<8, 1, Sigmoid{.normalise = true"));
  CHECK_THAT(type("glm4_moe", [](Json& j) { j["use_qk_norm"] = true; }),
             ContainsSubstring(".query_key_norm = QueryKeyNorm::head, .rotary_dim = 4"));
  CHECK_THAT(type("mixtral", [](Json& j) { j["num_experts_per_tok"] = 1; }),
             ContainsSubstring("AllowConstantGate<TopKRouter<5, 1, TopK{.gates = Gates::renormalised}>>"));
  CHECK_THAT(type("olmoe", [](Json& j) { j["num_experts_per_tok"] = 1; }),
             ContainsSubstring(", TopKRouter<5, 1>>"));
  CHECK_THAT(
      type("qwen3_moe", [](Json& j) { j["mlp_only_layers"] = Json::array(), j["decoder_sparse_step"] = 2; }),
      ContainsSubstring(".dense_hidden = 18") && ContainsSubstring(".moe_every = 2}"));
  CHECK_THAT(type("qwen3_moe", [](Json& j) { j["mlp_only_layers"] = {0, 1, 2}; }),
             ContainsSubstring(".hidden = 18,") && ContainsSubstring("}, Dense>"));
  CHECK_THAT(type("deepseek", [](Json& j) { j["moe_layer_freq"] = 2, j["num_hidden_layers"] = 5; }),
             ContainsSubstring(".mixture_at = {2, 4}}"));
  CHECK(changed("olmoe", nothing).options.qkv_clip == 0.8);
  const ModelOptions granite = changed("granitemoe", nothing).options;
  CHECK((granite.embedding_scale == 3 && granite.residual_scale == 0.4 && granite.attention_scale == 0.3 &&
         granite.logit_scale == 1 / 0.7));
  CHECK(changed("granitemoe", [](Json& j) { j["attention_multiplier"] = 0.5; }).options.attention_scale == 0);
}

TEST_CASE("rotary scaling is read from either key, and what would be ignored is refused") {
  const auto with = [](Json rope) {
    return changed("llama", [&](Json& j) { j.erase("rope_parameters"), j["rope_scaling"] = rope; });
  };
  CHECK(with({{"type", "linear"}, {"factor", 2}}).config.rotary_scaling == RotaryScaling::linear);
  CHECK(with({{"type", "linear"}, {"rope_type", "linear"}, {"factor", 2}}).options.rotary_factor == 2);
  CHECK(with({{"rope_type", "dynamic"}, {"factor", 2}}).type() == with({{"rope_type", "default"}}).type());
  const HuggingFaceModel yarn = with({{"rope_type", "yarn"}, {"factor", 4}});
  CHECK(yarn.config.rotary_scaling == RotaryScaling::yarn);
  CHECK((yarn.options.rotary_context == 80 && yarn.options.rotary_fast == 32 &&
         yarn.options.rotary_slow == 1 && yarn.options.rotary_magnitude == 0));
  CHECK(with({{"rope_type", "yarn"}, {"factor", nullptr}, {"original_max_position_embeddings", 20}})
            .options.rotary_factor == 4);
  CHECK(with({{"rope_type", "yarn"}, {"factor", 4}, {"mscale", 1}, {"mscale_all_dim", 1}})
            .options.rotary_magnitude == 1);
  CHECK(with({{"rope_type", "yarn"}, {"factor", 4}, {"mscale", 0.5}, {"mscale_all_dim", 2}})
            .options.rotary_magnitude == Approx((0.05 * std::log(4) + 1) / (0.2 * std::log(4) + 1)));
  const auto refused_with = [&](Json rope) {
    return refusal<std::runtime_error>([&] { with(std::move(rope)); });
  };
  CHECK_THAT(refused_with({{"rope_type", "longrope"}, {"factor", 2}}),
             ContainsSubstring("rope_scaling") && ContainsSubstring("\"rope_type\" is 'longrope'"));
  CHECK_THAT(refused_with({{"rope_type", "linear"}, {"factor", 2}, {"beta_fast", 3}}),
             ContainsSubstring("the member 'beta_fast' ('3') is not known for \"rope_type\" 'linear'"));
  CHECK_THAT(refused_with({{"rope_type", "yarn"}, {"factor", 2}, {"truncate", false}}),
             ContainsSubstring("\"truncate\" is false"));
  CHECK_THAT(refused_with({{"rope_type", "linear"}}), ContainsSubstring("no member \"factor\""));
  CHECK_THAT(refused_with({{"rope_type", "linear"}, {"factor", 0.5}}),
             ContainsSubstring("rotary_factor is 0.5"));
  CHECK_THAT(refused_with({{"rope_type", "linear"}, {"factor", "nan"}}), ContainsSubstring("rotary_factor"));
  CHECK_THAT(refused_with({{"rope_type", "yarn"}, {"factor", 2}, {"attention_factor", -1}}),
             ContainsSubstring("\"attention_factor\" is -1"));
  CHECK_THAT(refused_with({{"rope_type", "yarn"}, {"type", "linear"}, {"factor", 2}}),
             ContainsSubstring("\"type\" is 'linear' and \"rope_type\" 'yarn'"));
  CHECK_THAT(
      refused_with({{"rope_type", "llama3"}, {"factor", 2}, {"low_freq_factor", 4}, {"high_freq_factor", 1}}),
      ContainsSubstring("rotary_slow is 4 and rotary_fast 1"));
  CHECK_THAT(refused_with({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}),
             ContainsSubstring("\"partial_rotary_factor\" is 0.5, expected 1 for llama"));
  CHECK_THAT(refused_with(Json::array({1})), ContainsSubstring("rope_scaling: is array, expected an object"));
  CHECK_THAT(refused("llama", [](Json& j) { j["rope_scaling"] = {{"type", "linear"}, {"factor", 2}}; }),
             ContainsSubstring("\"rope_scaling\" and \"rope_parameters\" state different"));
  CHECK_THAT(refused("glm4_moe", [](Json& j) { j["rope_parameters"]["partial_rotary_factor"] = 0.4; }),
             ContainsSubstring("rotates 3 features of a head of 8, expected an even number from 2 to 8"));
}

TEST_CASE("layers with a window are those of the family") {
  const auto config = [](const std::string& family, auto change) { return changed(family, change).config; };
  const Config late = config("qwen3", [](Json& j) {
    j["use_sliding_window"] = true, j["sliding_window"] = 16, j["max_window_layers"] = 1,
    j.erase("layer_types");
  });
  CHECK((late.window == 16 && late.window_at == LayerSet([](int layer) { return layer == 1; })));
  CHECK(config("qwen2_moe", [](Json& j) {
          j["use_sliding_window"] = true, j["sliding_window"] = 16, j.erase("layer_types");
        }).window_at.has(2));
  CHECK(config("qwen3_moe", [](Json& j) {
          j["use_sliding_window"] = true, j["sliding_window"] = 16;
        }).window == 16);
  CHECK(config("dots1", [](Json& j) {
          j["sliding_window"] = 16, j["layer_types"][2] = "sliding_attention";
        }).window_at.has(2));
  CHECK(config("dots1", [](Json& j) {
          j["sliding_window"] = 16, j["max_window_layers"] = 2, j["use_sliding_window"] = false;
          j.erase("layer_types");
        }).window_at.has(2));
  CHECK(config("dots1", [](Json& j) { j["sliding_window"] = 4096, j["max_window_layers"] = 0; }).window == 0);
  CHECK_THAT(refused("qwen3", [](Json& j) { j["layer_types"][0] = "chunked_attention"; }),
             ContainsSubstring("\"layer_types\" has '\"chunked_attention\"' for layer 0"));
  CHECK_THAT(refused("qwen3", [](Json& j) { j["layer_types"] = {"full_attention"}; }),
             ContainsSubstring("\"layer_types\" has 1 layers, expected 2"));
  CHECK_THAT(refused("olmoe", [](Json& j) { j["sliding_window"] = 4; }),
             ContainsSubstring("\"sliding_window\""));
}

// A config.json that states a config and options, and what is read from it.
TEST_CASE("what a family states is written and read again") {
  for (const huggingface::Family& family : huggingface::families) {
    const std::string name(family.name);
    for (const bool other : {false, true}) {
      const HuggingFaceModel model = changed(name, [&](Json& j) {
        if (!other) return;
        if (j.contains("n_routed_experts")) j["num_experts_per_tok"] = 1;
        if (name == "deepseek") j["moe_layer_freq"] = 2;
        if (name == "qwen3_moe") j["mlp_only_layers"] = Json::array(), j["decoder_sparse_step"] = 2;
        if (name == "olmoe") j["norm_topk_prob"] = true, j["attention_bias"] = true;
        if (name == "granitemoe") j["logits_scaling"] = 49, j["attention_multiplier"] = 0.5;
        if (name.starts_with("qwen"))
          j["use_sliding_window"] = true, j["sliding_window"] = 16, j["max_window_layers"] = 1,
          j.erase("layer_types");
        if (name == "llama" || name == "mixtral")
          j["rope_parameters"] = {{"rope_type", "yarn"}, {"factor", 3}, {"rope_theta", 500}};
      });
      INFO(model.type());
      HuggingFaceModel same = model;
      same.config = huggingface::canonical(model.config);
      const Json json =
          huggingface::stated_config("config.json", name, same.type(), model.config, model.options);
      HuggingFaceModel again = read_config(json.dump());
      again.config = huggingface::canonical(again.config);
      CHECK(again.type() == same.type());
      CHECK(again.options.rotary_base == model.options.rotary_base);
    }
  }
}

TEST_CASE("what may change the computation and is not known is refused by name") {
  CHECK_THAT(refused("llama", [](Json& j) { j["logit_softcap"] = 30; }),
             ContainsSubstring("the key 'logit_softcap' ('30')"));
  CHECK_THAT(refused("llama", [](Json& j) { j["model_type"] = "bert"; }),
             ContainsSubstring("\"model_type\" is 'bert'"));
  CHECK_THAT(refused("llama", [](Json& j) { j["hidden_act"] = "mish"; }),
             ContainsSubstring("\"hidden_act\" is 'mish'"));
  CHECK_THAT(refused("llama", [](Json& j) { j["vocab_size"] = -1; }),
             ContainsSubstring("\"vocab_size\" is '-1'"));
  CHECK_THAT(refused("llama", [](Json& j) { j["num_hidden_layers"] = 2e9; }),
             ContainsSubstring("\"num_hidden_layers\""));
  CHECK_THAT(refused("llama", [](Json& j) { j.erase("hidden_size"); }),
             ContainsSubstring("no member \"hidden_size\""));
  CHECK_THAT(refused("gpt2", [](Json& j) { j["scale_attn_by_inverse_layer_idx"] = true; }),
             ContainsSubstring("\"scale_attn_by_inverse_layer_idx\""));
  CHECK_THAT(refused("qwen2_moe", [](Json& j) { j["shared_expert_intermediate_size"] = 25; }),
             ContainsSubstring("expected a multiple of \"moe_intermediate_size\", 12"));
  CHECK_THAT(refused("qwen2_moe", [](Json& j) { j["layer_types"][0] = "sliding_attention"; }),
             ContainsSubstring("for layer 0, expected \"full_attention\""));
  CHECK_THAT(refused("qwen3_moe", [](Json& j) { j.erase("num_key_value_heads"); }),
             ContainsSubstring("no member \"num_key_value_heads\""));
  CHECK_THAT(refused("qwen3_moe", [](Json& j) { j["num_experts"] = 7; }),
             ContainsSubstring("\"num_experts\" is '7' and \"num_local_experts\" '6'"));
  CHECK_THAT(refused("olmoe", [](Json& j) { j["num_experts_per_tok"] = 6; }),
             ContainsSubstring("\"num_experts_per_tok\" is 6, expected at most the 5 experts"));
  CHECK_THAT(refused("olmoe", [](Json& j) { j["head_dim"] = 6; }), ContainsSubstring("\"head_dim\" is 6"));
  CHECK_THAT(refused("olmoe", [](Json& j) { j["clip_qkv"] = -1; }), ContainsSubstring("qkv_clip is -1"));
  CHECK_THAT(refused("olmoe", [](Json& j) { j["rms_norm_eps"] = "nan"; }),
             ContainsSubstring("norm_epsilon is nan"));
  CHECK_THAT(
      refused("olmoe", [](Json& j) { j["num_attention_heads"] = 3; }),
      ContainsSubstring("\"num_attention_heads\" is 3, expected a multiple of \"num_key_value_heads\", 2"));
  CHECK_THAT(refused("granitemoe", [](Json& j) { j["logits_scaling"] = 0; }),
             ContainsSubstring("\"logits_scaling\" is 0"));
  CHECK_THAT(refused("granitemoe", [](Json& j) { j["attention_multiplier"] = 0; }),
             ContainsSubstring("\"attention_multiplier\" is 0"));
  CHECK_THAT(refused("dots1", [](Json& j) { j["n_group"] = 3; }),
             ContainsSubstring("\"n_routed_experts\" is 8, expected a multiple of \"n_group\", 3"));
  CHECK_THAT(refused("dots1", [](Json& j) { j["n_group"] = 8, j["topk_group"] = 4; }),
             ContainsSubstring("expected groups of 2 experts or more"));
  CHECK_THAT(
      refused("dots1", [](Json& j) { j["topk_group"] = 1; }),
      ContainsSubstring("\"topk_group\" is 1, expected at most the 4 groups, and enough for 3 experts"));
  CHECK_THAT(refused("dots1", [](Json& j) { j["routed_scaling_factor"] = 0.123456789; }),
             ContainsSubstring("\"routed_scaling_factor\" is 0.123457"));
  CHECK_THAT(refused("dots1", [](Json& j) { j["routed_scaling_factor"] = "inf"; }),
             ContainsSubstring("\"routed_scaling_factor\" is inf"));
  CHECK_THAT(refused("dots1", [](Json& j) { j["moe_layer_freq"] = 2; }),
             ContainsSubstring("\"moe_layer_freq\" is '2'"));
  CHECK_THAT(refused("dots1", [](Json& j) { j["n_shared_experts"] = 0; }),
             ContainsSubstring("\"n_shared_experts\" is '0'"));
  CHECK_THAT(
      refused("deepseek", [](Json& j) { j["scoring_func"] = "sigmoid"; }),
      ContainsSubstring("\"scoring_func\" is '\"sigmoid\"', which is not supported; expected \"softmax\""));
}

TEST_CASE("a hostile config.json costs little and gives an error") {
  const TemporaryFolder folder;
  std::string large = "{\"model_type\": \"llama\"";
  for (int i = 0; i < 1'000'000; ++i) large.append(", \"k").append(std::to_string(i)).append("\": 1");
  write_file_atomically(folder / "config.json", [&](auto& out) { out.write(large + "}"); });
  CHECK_THAT(refusal<std::runtime_error>([&] { read_huggingface_config(folder.path); }),
             ContainsSubstring("expected at most 1048576"));
  std::uint64_t errors = 0;
  const char* more = std::getenv("MOEGPT_EXECUTIONS");  // for long runs
  const std::uint64_t trials = more ? std::strtoull(more, nullptr, 10) : 20'000;
  std::vector<std::string> texts;
  for (const huggingface::Family& family : huggingface::families)
    if (family.mixtures != huggingface::Mixtures::none)
      texts.push_back(golden_text(std::string(family.name)));
  for (std::uint64_t i = 0; i < trials; ++i) {
    const Key key{mix64(i)};
    std::string text = texts[i % texts.size()];
    for (std::uint64_t n = 0; n < 1 + i % 4; ++n)
      text[key.bits(2 * n) % text.size()] = "{}[]\",:0-9ex \x01\xff"[key.bits(2 * n + 1) % 15];
    if (i % 7 == 0) text.resize(key.bits(99) % text.size());
    try {
      parse_type(read_config(text).type());
    } catch (const std::runtime_error&) {
      ++errors;
    } catch (const std::invalid_argument&) {  // of the grammar
      ++errors;
    }
  }
  CHECK(errors > trials / 2);
}
