// A model is small wherever it stands, and so are its gradient, its optimizer and all that works on it: what
// there are many of, or what is large, is on the heap.
#include <moegpt/model/presets.hpp>
#include <moegpt/model/selection_bias.hpp>
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/train/adam.hpp>
#include <moegpt/generate/generate.hpp>

#include "../support/small_stack.hpp"
#include "support.hpp"

namespace {

// The largest value of the types that a program holds for a model.
template <class Model>
constexpr std::size_t largest() {
  return std::max({sizeof(Model), sizeof(Adam<Model>), sizeof(typename Model::Workspace),
                   sizeof(typename Model::Cache), sizeof(Generator<Model>), sizeof(BatchGenerator<Model>),
                   sizeof(ExpertCounts<Model>)});
}
template <class Preset>
constexpr std::size_t largest_of = largest<presets::ModelOf<Preset>>();
constexpr std::size_t limit = 64 << 10;

using presets::Extents;
template <int layers, int experts, int dim>
using DeepSeek = presets::deepseek_moe<Extents{
    .vocab = 16, .context = 8, .dim = dim, .layers = layers, .heads = 1, .experts = experts}>;

}  // namespace

TEST_CASE("models, optimizers, workspaces and caches of the published extents are at most 64 KiB") {
  CHECK(largest_of<presets::deepseek_moe<>> <= limit);
  CHECK(largest_of<presets::qwen_moe<>> <= limit);
  CHECK(largest_of<presets::olmoe<>> <= limit);
  CHECK(largest_of<presets::mixtral<>> <= limit);
  CHECK(largest_of<presets::glam<>> <= limit);
  CHECK(largest_of<presets::gshard<>> <= limit);
  CHECK(largest_of<presets::switch_base<>> <= limit);
  CHECK(largest_of<presets::gpt2_moe<>> <= limit);
  CHECK(largest_of<presets::makemoe<>> <= limit);
}

TEST_CASE("no extent changes the size of a model, its optimizer, its workspace or its cache") {
  CHECK(largest_of<DeepSeek<61, 256, 28>> == largest_of<DeepSeek<6, 16, 56>>);
  CHECK(sizeof(presets::ModelOf<DeepSeek<61, 256, 28>>) == sizeof(presets::ModelOf<DeepSeek<6, 16, 56>>));
  constexpr Config few{.vocab = 7, .context = 5, .dim = 6, .layers = 2, .heads = 2},
      many{.vocab = 70000, .context = 5000, .dim = 600, .layers = 200, .heads = 20};
  CHECK(largest<GPT<many, HierarchicalRouter<TopKRouter<256, 2>, TopKRouter<256, 2>>>>() ==
        largest<GPT<few, HierarchicalRouter<TopKRouter<3, 2>, TopKRouter<4, 2>>>>());
  CHECK(largest<GPT<many, Masked<TopKRouter<512, 2>, 100>>>() ==
        largest<GPT<few, Masked<TopKRouter<3, 2>, 2>>>());
}

// What the types above take is not all: nothing may pass through the stack on its way to the heap either.
TEST_CASE(
    "61 layers of 256 experts, a gradient, an optimizer, a workspace and a copy are locals of a small "
    "thread") {
  using Model = presets::ModelOf<DeepSeek<61, 256, 28>>;
  bool same = false, moved = false;
  const bool ran = on_small_stack(512 << 10, [&] {
    Model model, grad;
    Adam<Model> adam;
    Model::Workspace work{{1, 2}};
    Model::Cache cache;
    ExpertCounts<Model> counts;
    init(model, Key{1});
    set_zero(grad);
    Model copy = model;
    same = first_difference(copy, model).empty();
    grad = copy;
    const Model taken = std::move(copy);
    moved = first_difference(taken, grad).empty() && count_weights(copy) == 0;
  });
  CHECK(ran);
  CHECK(same);
  CHECK(moved);
}
