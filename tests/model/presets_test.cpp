#include <moegpt/io/model_file.hpp>
#include <moegpt/model/presets.hpp>
#include <moegpt/model/selection_bias.hpp>
#include <moegpt/testing/gradcheck.hpp>
#include <moegpt/testing/leak.hpp>
#include <moegpt/train/adam.hpp>

#include "support.hpp"
#include "support/temporary_folder.hpp"

namespace {

using presets::Extents;

constexpr Extents tiny{
    .vocab = 7, .context = 5, .dim = 8, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 4, .experts = 6};
constexpr Extents tiny_two_of_six = [] {
  Extents x = tiny;
  x.active = 2;
  return x;
}();
constexpr Extents tiny_in_groups = [] {
  Extents x = tiny;
  x.experts = 16, x.active = 3;
  return x;
}();
const Shape shape{2, 5};

// A preset's gradients are differences, it does not look ahead, its first steps lower the loss, and its model
// comes back from a file.
template <class Preset>
void examine() {
  using Model = presets::ModelOf<Preset, double>;
  for (const std::uint64_t seed : {1, 2, 3}) {
    const Pass pass{.shape = shape, .options = Preset::options(), .key = Key{seed}};
    const RoutingContext routing{.objective = Preset::objective()};
    const GradcheckReport report =
        gradcheck<Model>({.seed = seed, .pass = pass, .routing = routing, .per_tensor = 8});
    CAPTURE(seed, report.where, report.message);
    REQUIRE(report.ok);
    REQUIRE(report.worst <= 1e-6);
  }

  const LeakReport leak = find_leak<Model>({.shape = shape,
                                            .options = Preset::options(),
                                            .objective = Preset::objective(),
                                            .key = Key{4},
                                            .draws = 2});
  CAPTURE(leak.text());
  CHECK_FALSE(leak.leaks);

  Model model, grad, read;
  init(model, Key{1}, Preset::init);
  model.options = Preset::options();
  typename Model::Workspace work{shape, {}, Preset::objective()};
  Adam<Model> adam{{.learning_rate = 1e-3}};
  const Batch batch = random_batch(shape, Model::config.vocab, 2);
  const double before = model.forward(batch, work).cross_entropy;
  for (int step = 0; step < 5; ++step) {
    set_zero(grad);
    model.forward(batch, work);
    model.backward(batch, work, grad);
    adam.step(model, grad);
  }
  const double after = model.forward(batch, work).cross_entropy;
  CHECK(after < before);

  const TemporaryFolder folder;
  const std::string path = (folder / "model.safetensors").string();
  save(path, model, Tokenizer::characters("abcdefg"));
  Tokenizer tokenizer;
  load(path, read, tokenizer);
  CHECK(read.forward(batch, work).cross_entropy == after);
  CHECK_FALSE(contains(to_text<Model>(), "your router"));
}

}  // namespace

TEST_CASE("makemoe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::makemoe<tiny_two_of_six>>();
}
TEST_CASE("gpt2_moe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::gpt2_moe<tiny_two_of_six>>();
}
TEST_CASE("switch_base is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::switch_base<tiny>>();
}
TEST_CASE("gshard is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::gshard<tiny>>();
}
TEST_CASE("glam is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::glam<tiny>>();
}
TEST_CASE("mixtral is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::mixtral<tiny_two_of_six>>();
}
TEST_CASE("olmoe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::olmoe<tiny_two_of_six>>();
}
TEST_CASE("qwen_moe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::qwen_moe<tiny_two_of_six>>();
}
TEST_CASE("deepseek_moe is right in its gradients, keeps to the past, learns, and comes back from a file") {
  examine<presets::deepseek_moe<tiny_in_groups>>();
}

TEST_CASE("the selection bias of deepseek_moe moves against the load, by the preset's rate") {
  using Preset = presets::deepseek_moe<tiny_in_groups>;
  using Model = presets::ModelOf<Preset, double>;
  Model model;
  init(model, Key{1}, Preset::init);
  Model::Workspace work{shape};
  model.forward(random_batch(shape, Model::config.vocab, 2), work);
  ExpertCounts<Model> counts;
  counts.add(model, work);
  balance_selection(model, counts, Preset::balance_rate, false);
  const auto& bias = model.trunk.blocks.second[0].mixture.routed.router.selection_bias;
  const auto& wanted = work.tape.trunk.blocks.second[0].mixture.plan.wanted;
  for (int e = 0; e < 16; ++e)
    CHECK(bias[e] == (16 * wanted[e] < 3 * shape.tokens() ? 0.001 : -0.001));  // 30 / 16
}

TEST_CASE("a preset has the published extents unless it is given others, and keeps their proportions") {
  using Published = presets::mixtral<>;
  CHECK(Published::config.hidden == 14336);
  CHECK(Published::config.kv_heads == 8);
  using Small = presets::mixtral<Extents{.vocab = 65, .context = 64, .dim = 64, .layers = 4, .heads = 8}>;
  CHECK(Small::config.hidden == 224);
  CHECK(Small::config.kv_heads == 2);
  CHECK(Small::RouterRecipe::experts == 8);
  CHECK(presets::olmoe<>::config.hidden == 1024);
  CHECK(presets::qwen_moe<>::config.hidden == 1408);
  CHECK(presets::deepseek_moe<>::config.hidden == 2048);
  CHECK(presets::deepseek_moe<>::config.dense_hidden == 18432);
  CHECK(presets::deepseek_moe<>::config.dense_first == 3);
}
