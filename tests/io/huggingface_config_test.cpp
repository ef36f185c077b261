#include <moegpt/io/huggingface_config.hpp>

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
  CHECK_THAT(refused("llama", [](Json& j) { j["rope_parameters"]["rope_type"] = "llama3"; }),
             ContainsSubstring("'rope_type'"));
  CHECK_THAT(refused("gpt2", [](Json& j) { j["scale_attn_by_inverse_layer_idx"] = true; }),
             ContainsSubstring("\"scale_attn_by_inverse_layer_idx\""));
  CHECK_THAT(refused("qwen2_moe", [](Json& j) { j["shared_expert_intermediate_size"] = 25; }),
             ContainsSubstring("expected a multiple of \"moe_intermediate_size\", 12"));
  CHECK_THAT(refused("qwen2_moe", [](Json& j) { j["layer_types"][0] = "sliding_attention"; }),
             ContainsSubstring("expected all layers alike"));
}

TEST_CASE("a hostile config.json costs little and gives an error") {
  const TemporaryFolder folder;
  std::string large = "{\"model_type\": \"llama\"";
  for (int i = 0; i < 1'000'000; ++i) large.append(", \"k").append(std::to_string(i)).append("\": 1");
  write_file_atomically(folder / "config.json", [&](auto& out) { out.write(large + "}"); });
  CHECK_THAT(refusal<std::runtime_error>([&] { read_huggingface_config(folder.path); }),
             ContainsSubstring("expected at most 1048576"));
  int errors = 0;
  constexpr int trials = 20'000;
  const std::string texts[] = {golden_text("mixtral"), golden_text("qwen2_moe")};
  for (std::uint64_t i = 0; i < trials; ++i) {
    const Key key{mix64(i)};
    std::string text = texts[i % 2];
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
