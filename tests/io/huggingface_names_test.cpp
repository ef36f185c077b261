#include <moegpt/io/huggingface_names.hpp>

#include "../support/catch.hpp"
#include "../support/refusal.hpp"

using namespace moegpt;
using huggingface::place_of;

namespace {

constexpr Config config{.vocab = 61, .context = 80, .dim = 24, .layers = 12, .heads = 4, .kv_heads = 2};

}  // namespace

TEST_CASE("weights have the names of their family") {
  CHECK(place_of("llama", "token_embedding.weight", config).name == "model.embed_tokens.weight");
  CHECK(place_of("llama", "blocks.11.attention.query.weight", config).name ==
        "model.layers.11.self_attn.q_proj.weight");
  CHECK(place_of("qwen2_moe", "blocks.3.moe.experts.12.down.weight", config).name ==
        "model.layers.3.mlp.experts.12.down_proj.weight");
  CHECK(place_of("mixtral", "blocks.3.moe.experts.12.up.weight", config).name ==
        "model.layers.3.block_sparse_moe.experts.12.w3.weight");
  CHECK(place_of("mixtral", "norm.weight", config).name == "model.norm.weight");
}

TEST_CASE("weights of norms of queries and keys, of shared experts and of the selection bias have names") {
  CHECK(place_of("olmoe", "blocks.3.attention.query_norm.weight", config).name ==
        "model.layers.3.self_attn.q_norm.weight");
  CHECK(place_of("dots1", "blocks.3.moe.router.selection_bias", config).name ==
        "model.layers.3.mlp.gate.e_score_correction_bias");
  CHECK(place_of("dots1", "blocks.3.moe.shared.up.weight", config).name ==
        "model.layers.3.mlp.shared_experts.up_proj.weight");
  CHECK(place_of("deepseek", "blocks.0.ffn.up.weight", config).name == "model.layers.0.mlp.up_proj.weight");
}

TEST_CASE("Granite stores the experts of a layer in two tensors") {
  const auto up = place_of("granitemoe", "blocks.0.moe.experts.11.up.weight", config);
  CHECK(up.name == "model.layers.0.block_sparse_moe.input_linear.weight");
  CHECK((up.expert == 11 && up.part == huggingface::Part::up));
  const auto down = place_of("granitemoe", "blocks.0.moe.experts.2.down.weight", config);
  CHECK(down.name == "model.layers.0.block_sparse_moe.output_linear.weight");
  CHECK((down.expert == 2 && down.part == huggingface::Part::down));
  CHECK(place_of("granitemoe", "blocks.0.attention.key.weight", config).expert == -1);
}

TEST_CASE("GPT-2 stores matrices transposed, and query, key and value in one tensor") {
  const auto key = place_of("gpt2", "blocks.0.attention.key.weight", config);
  CHECK(key.name == "transformer.h.0.attn.c_attn.weight");
  CHECK((key.transposed && key.row == 24));
  const auto value = place_of("gpt2", "blocks.0.attention.value.bias", config);
  CHECK((!value.transposed && value.row == 24 + 12));
  CHECK_FALSE(place_of("gpt2", "blocks.0.norm1.weight", config).transposed);
  CHECK_FALSE(place_of("gpt2", "token_embedding.weight", config).transposed);
}

TEST_CASE("a weight without a name in the family is refused") {
  CHECK_THAT(refusal([] { place_of("gpt2", "blocks.0.moe.router.gate.weight", config); }),
             ContainsSubstring("has no name in gpt2's checkpoints"));
  CHECK_THAT(refusal([] { place_of("llama", "position_embedding.weight", config); }),
             ContainsSubstring("has no name"));
}
