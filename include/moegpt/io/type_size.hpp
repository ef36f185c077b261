#pragma once
// The size of a model type: a lower bound of its number of weights, held against the numbers in a file.
#include <moegpt/io/safetensors.hpp>
#include <moegpt/io/type_text.hpp>

#include <cmath>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace types {

// Experts of one MoE layer.
inline double experts_of(const TypeTree& recipe) {
  if (recipe.parts.empty()) return 0;  // Dense
  const TypeTree& first = recipe.parts[0];
  if (recipe.name == "HierarchicalRouter") return experts_of(first) * experts_of(recipe.parts[1]);
  return first.name.empty() ? static_cast<double>(first.number) : experts_of(first);
}

// Weights that an MoE layer has beside the matrices of its routed experts: those whose number is an argument
// of the type. expert: weights of an expert of the Config.
inline double extra_weights(const TypeTree& recipe, double dim, double expert) {
  const auto argument = [&](std::size_t i) {
    return i < recipe.parts.size() ? static_cast<double>(recipe.parts[i].number) : 1;
  };
  double sum = 0;
  for (const TypeTree& part : recipe.parts) sum += extra_weights(part, dim, expert);
  if (recipe.name == "CosineRouter" && recipe.parts.size() > 2) sum += argument(2) * dim;
  if (recipe.name == "SoftMoE") sum += argument(0) * argument(1) * dim;
  if (recipe.name == "Masked") sum += argument(1) * experts_of(recipe);
  if (recipe.name == "SharedExperts") sum += argument(1) * expert;
  if (recipe.name == "WithSharedProjection") sum += argument(1) * dim;
  return sum;
}

inline const TypeTree* find_type(const TypeTree& tree, std::string_view name) {
  if (tree.name == name) return &tree;
  for (const TypeTree& part : tree.parts)
    if (const TypeTree* found = find_type(part, name)) return found;
  return nullptr;
}

}  // namespace types

// A lower bound of the number of weights of a model type: its matrices, without biases and norms. It is a
// double, because a product of extents within the limits may exceed 64 bits.
inline double least_weights(const TypeTree& model) {
  const TypeTree &config = model.parts[0], &recipe = model.parts[1];
  const auto extent = [&](std::string_view field, double usual = 0) {
    const TypeTree* found = config.find(field);
    return found && found->number > 0 ? static_cast<double>(found->number) : usual;
  };
  const auto is = [&](std::string_view field, std::string_view value) {
    const TypeTree* found = config.find(field);
    return found && found->value == value;
  };
  const double dim = extent("dim"), layers = extent("layers"), heads = extent("heads");
  const double head_dim = extent("head_dim", std::floor(dim / heads));
  const double attention = 2 * (heads + extent("kv_heads", heads)) * head_dim * dim;
  const double width = extent("hidden", 4 * dim), maps = is("gated", "true") ? 3 : 2;
  const double dense = maps * extent("dense_hidden", width) * dim, expert = maps * width * dim;

  const double after = std::max(0.0, layers - extent("dense_first"));
  const TypeTree* listed = config.find("mixture_at");
  double mixtures =
      listed ? static_cast<double>(listed->parts.size()) : std::floor(after / extent("moe_every", 1));
  if (recipe.name == "Dense") mixtures = 0;
  const TypeTree* projected = types::find_type(recipe, "WithSharedProjection");
  const double routed = projected ? static_cast<double>(projected->parts[1].number) * dim : expert;

  const double ends = extent("vocab") * dim * (model.name == "GPT" && !is("tied", "true") ? 2 : 1) +
                      (is("positions", "rotary") ? 0 : extent("context") * dim);
  return ends + layers * attention + (layers - mixtures) * dense +
         mixtures * (types::experts_of(recipe) * routed + types::extra_weights(recipe, dim, expert));
}

// Throws std::runtime_error if a model of the type has more weights than there are numbers. A program for the
// type would otherwise allocate them before it reads the file. `name` is the file's.
inline void check_size(const TypeTree& model, double numbers, const std::string& name) {
  if (const double least = least_weights(model); least > numbers)
    reject_file(name, "states a type of at least ", least, " weights, but has ", numbers,
                " numbers: ", to_text(model));
}
inline void check_size(const TypeTree& model, const SafetensorsFile& file) {
  double numbers = 0;
  for (const auto& [name, tensor] : file.header.tensors) {
    double count = 1;
    for (const Index extent : tensor.shape) count *= static_cast<double>(extent);
    numbers += count;
  }
  check_size(model, numbers, file.name);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
