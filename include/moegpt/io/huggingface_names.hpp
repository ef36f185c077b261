#pragma once
// Names of weights in checkpoints of transformers, beside the paths of a GPT.
#include <moegpt/io/huggingface_families.hpp>

#include <charconv>
#include <optional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace huggingface {

// Names of weights: ours, and theirs. `*` stands for the number of an expert.
struct Name {
  std::string_view ours, theirs;
};
inline constexpr Name llama_names[] = {
    {"norm1.weight", "input_layernorm.weight"},
    {"norm2.weight", "post_attention_layernorm.weight"},
    {"attention.query", "self_attn.q_proj"},
    {"attention.key", "self_attn.k_proj"},
    {"attention.value", "self_attn.v_proj"},
    {"attention.output", "self_attn.o_proj"},
    {"attention.query_norm", "self_attn.q_norm"},
    {"attention.key_norm", "self_attn.k_norm"},
    {"ffn.gate", "mlp.gate_proj"},
    {"ffn.up", "mlp.up_proj"},
    {"ffn.down", "mlp.down_proj"},
    {"moe.router.gate.weight", "mlp.gate.weight"},
    {"moe.experts.*.gate", "mlp.experts.*.gate_proj"},
    {"moe.experts.*.up", "mlp.experts.*.up_proj"},
    {"moe.experts.*.down", "mlp.experts.*.down_proj"},
    {"moe.shared.gate", "mlp.shared_expert.gate_proj"},
    {"moe.shared.up", "mlp.shared_expert.up_proj"},
    {"moe.shared.down", "mlp.shared_expert.down_proj"},
    {"moe.shared_gate.weight", "mlp.shared_expert_gate.weight"},
};
inline constexpr Name mixtral_names[] = {
    {"moe.router.gate.weight", "block_sparse_moe.gate.weight"},
    {"moe.experts.*.gate", "block_sparse_moe.experts.*.w1"},
    {"moe.experts.*.up", "block_sparse_moe.experts.*.w3"},
    {"moe.experts.*.down", "block_sparse_moe.experts.*.w2"},
};
inline constexpr Name granite_names[] = {
    {"moe.router.gate.weight", "block_sparse_moe.router.layer.weight"},
    {"moe.experts.*.gate", "block_sparse_moe.input_linear"},
    {"moe.experts.*.up", "block_sparse_moe.input_linear"},
    {"moe.experts.*.down", "block_sparse_moe.output_linear"},
};
inline constexpr Name deepseek_names[] = {
    {"moe.router.selection_bias", "mlp.gate.e_score_correction_bias"},
    {"moe.shared.gate", "mlp.shared_experts.gate_proj"},
    {"moe.shared.up", "mlp.shared_experts.up_proj"},
    {"moe.shared.down", "mlp.shared_experts.down_proj"},
};
inline constexpr Name gpt2_names[] = {
    {"norm1", "ln_1"},      {"norm2", "ln_2"},          {"attention.output", "attn.c_proj"},
    {"ffn.up", "mlp.c_fc"}, {"ffn.down", "mlp.c_proj"},
};
// Weights outside of blocks.
inline constexpr Name llama_ends[] = {{"token_embedding.weight", "model.embed_tokens.weight"},
                                      {"norm.weight", "model.norm.weight"},
                                      {"head.weight", "lm_head.weight"}};
inline constexpr Name gpt2_ends[] = {{"token_embedding.weight", "transformer.wte.weight"},
                                     {"position_embedding.weight", "transformer.wpe.weight"},
                                     {"norm", "transformer.ln_f"},
                                     {"head.weight", "lm_head.weight"}};

// Whether `path` is the pattern or continues it with a member: then the result of the same in `theirs`.
inline std::optional<std::string> renamed(std::string_view path, const Name& name) {
  std::string result(name.theirs);
  std::size_t at = 0;
  for (std::size_t i = 0; i < name.ours.size(); ++i) {
    if (name.ours[i] != '*') {
      if (at == path.size() || path[at++] != name.ours[i]) return std::nullopt;
      continue;
    }
    const std::size_t begin = at;
    while (at < path.size() && path[at] >= '0' && path[at] <= '9') ++at;
    if (const std::size_t star = result.find('*'); star != std::string::npos)
      result.replace(star, 1, path.substr(begin, at - begin));
  }
  if (at < path.size() && path[at] != '.') return std::nullopt;
  return result.append(path.substr(at));
}

// What a matrix is in an expert, which may be in one tensor with those of other experts.
enum class Part { gate, up, down };

// The tensor that holds a weight, or a part of it: rows begin at `row`, and columns, if it is stored [in,
// out].
struct Place {
  std::string name;
  bool transposed = false;
  Index row = 0;      // of the weight's first row in the tensor
  Index expert = -1;  // 0 or more: in a tensor [experts, 2 Dff, D] of gates above ups, or [experts, D, Dff]
  Part part = Part::gate;
};

template <std::size_t N>
std::optional<std::string> find_name(std::string_view path, const Name (&names)[N]) {
  for (const Name& name : names)
    if (auto found = renamed(path, name)) return found;
  return std::nullopt;
}

// Of the weight at `path`; std::runtime_error if the family has no name for it.
inline Place place_of(const std::string& family, const std::string& path, const Config& c) {
  const bool gpt2 = family == "gpt2";
  std::optional<std::string> name;
  std::string_view rest = path;
  Place place;
  if (rest.substr(0, 7) == "blocks.") {
    rest.remove_prefix(7);
    const std::size_t dot = std::min(rest.find('.'), rest.size() - 1);
    std::string layer = gpt2 ? "transformer.h." : "model.layers.";
    layer.append(rest.substr(0, dot + 1));
    rest.remove_prefix(dot + 1);
    const bool is_weight = rest.ends_with(".weight");
    if (gpt2) {
      name = find_name(rest, gpt2_names);
      place.transposed = is_weight && name && rest.substr(0, 4) != "norm";
      const Index kv = Index{c.attention().key_value_heads()} * c.attention().width();
      const std::pair<std::string_view, Index> projections[] = {
          {"attention.query", 0},
          {"attention.key", Index{c.heads} * c.attention().width()},
          {"attention.value", Index{c.heads} * c.attention().width() + kv}};
      for (const auto& [ours, row] : projections)
        if (auto found = renamed(rest, {ours, "attn.c_attn"}))
          name = found, place.transposed = is_weight, place.row = row;
    } else {
      const Family& differs = family_of(family);
      if (family == "mixtral") name = find_name(rest, mixtral_names);
      if (differs.stacked) {
        name = find_name(rest, granite_names);
        const std::string_view mark = "moe.experts.";
        if (name && rest.starts_with(mark)) {
          std::from_chars(rest.data() + mark.size(), rest.data() + rest.size(), place.expert);
          place.part = rest.ends_with("gate.weight") ? Part::gate
                       : rest.ends_with("up.weight") ? Part::up
                                                     : Part::down;
        }
      }
      if (differs.mixtures == Mixtures::after_dense) name = find_name(rest, deepseek_names);
      if (!name) name = find_name(rest, llama_names);
    }
    if (name) name->insert(0, layer);
  } else {
    name = gpt2 ? find_name(rest, gpt2_ends) : find_name(rest, llama_ends);
  }
  check(name.has_value(), "the weight ", shown(path), " has no name in ", family, "'s checkpoints");
  place.name = std::move(*name);
  return place;
}

}  // namespace huggingface

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
