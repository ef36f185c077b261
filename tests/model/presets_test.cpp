#include <moegpt/io/model_file.hpp>
#include <moegpt/model/presets.hpp>
#include <moegpt/testing/gradcheck.hpp>
#include <moegpt/train/adam.hpp>

#include "support.hpp"

#include <cstdio>
#include <filesystem>

namespace {

using presets::Extents;

constexpr Extents tiny{.vocab = 7, .context = 5, .dim = 8, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 4,
                       .experts = 6};
constexpr Extents tiny_two_of_six = [] {
  Extents x = tiny;
  x.active = 2;
  return x;
}();
const Shape shape{2, 5};

// A preset's gradients are differences, its first steps lower the loss, and its model comes back from a file.
template <class Preset>
void examine() {
  using Model = presets::ModelOf<Preset, double>;
  for (const std::uint64_t seed : {1, 2, 3}) {
    const Pass pass{.shape = shape, .options = Preset::options(), .objective = Preset::objective(), .key = Key{seed}};
    const GradcheckReport report = gradcheck<Model>({.seed = seed, .pass = pass, .per_tensor = 8});
    CAPTURE(seed, report.where, report.complaint);
    REQUIRE(report.ok);
    REQUIRE(report.worst <= 1e-6);
  }

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

  const std::string path = (std::filesystem::temp_directory_path() / "moegpt-presets-test.safetensors").string();
  save(path, model, Tokenizer::characters("abcdefg"));
  Tokenizer tokenizer;
  load(path, read, tokenizer);
  std::remove(path.c_str());
  CHECK(read.forward(batch, work).cross_entropy == after);
  CHECK_FALSE(contains(to_text<Model>(), "your router"));
}

}  // namespace

TEST_CASE("makemoe is right in its gradients, learns, and comes back from a file") {
  examine<presets::makemoe<tiny_two_of_six>>();
}
TEST_CASE("gpt2_moe is right in its gradients, learns, and comes back from a file") {
  examine<presets::gpt2_moe<tiny_two_of_six>>();
}
TEST_CASE("switch_base is right in its gradients, learns, and comes back from a file") {
  examine<presets::switch_base<tiny>>();
}
TEST_CASE("gshard is right in its gradients, learns, and comes back from a file") {
  examine<presets::gshard<tiny>>();
}
TEST_CASE("glam is right in its gradients, learns, and comes back from a file") {
  examine<presets::glam<tiny>>();
}
TEST_CASE("mixtral is right in its gradients, learns, and comes back from a file") {
  examine<presets::mixtral<tiny_two_of_six>>();
}
TEST_CASE("olmoe is right in its gradients, learns, and comes back from a file") {
  examine<presets::olmoe<tiny_two_of_six>>();
}
TEST_CASE("qwen_moe is right in its gradients, learns, and comes back from a file") {
  examine<presets::qwen_moe<tiny_two_of_six>>();
}
TEST_CASE("deepseek_moe is right in its gradients, learns, and comes back from a file") {
  examine<presets::deepseek_moe<tiny_two_of_six>>();
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
