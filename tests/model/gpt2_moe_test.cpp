// What a GPT-2 with MoE layers must offer, item by item, with the preset gpt2_moe: configuration and its
// checks, routing, all intermediate data and their files, the variance loss, usage of experts, and generation
// with a cache.
#include <moegpt/generate/generator.hpp>
#include <moegpt/io/intermediates.hpp>
#include <moegpt/model/presets.hpp>
#include <moegpt/model/routing_statistics.hpp>

#include "support.hpp"
#include "support/temporary_folder.hpp"

#include <nlohmann/json.hpp>

namespace {

using presets::Extents;
constexpr Extents tiny{.vocab = 11, .context = 12, .dim = 8, .layers = 2, .heads = 2, .hidden = 12};
constexpr Extents four_of_five = [] {
  Extents x = tiny;
  x.experts = 5, x.active = 4;
  return x;
}();
using Preset = presets::gpt2_moe<tiny>;
using Model = presets::ModelOf<Preset, double>;
const Shape shape{2, 6};
constexpr std::size_t N = 12, E = 8, K = 2, D = 8;

struct Run {
  std::unique_ptr<Model> model = random_model<Model>(1);
  Batch batch = random_batch(shape, 11, 2);
  Model::Workspace work{shape, {}, Preset::objective()};
  Loss loss = model->forward(batch, work);
  Intermediates<double> seen = intermediates(*model, work, {.expert_outputs = true});
};

}  // namespace

TEST_CASE("use_moe = false is the dense GPT-2 of the same Config, true has MoE layers in its place") {
  using Off = presets::gpt2_moe<tiny, presets::GPT2{.use_moe = false}>;
  using Dense2 = presets::ModelOf<Off, double>;
  STATIC_REQUIRE(std::is_same_v<Off::RouterRecipe, Dense>);
  CHECK(Off::config == Preset::config);
  int moe = 0, dense = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto&) { moe += path.find(".moe.") != std::string::npos; },
      *random_model<Model>(1));
  const auto off = random_model<Dense2>(1);
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto&) { dense += path.find(".moe.") != std::string::npos; },
      *off);
  CHECK(moe == 2 * (1 + 8 * 4));  // a router, and two maps with biases for each expert
  CHECK(dense == 0);
  Dense2::Workspace work{shape, {}, Off::objective()};
  const Batch batch = random_batch(shape, 11, 2);
  const Loss loss = off->forward(batch, work);
  CHECK(std::isfinite(loss.cross_entropy));
  CHECK(loss.variance == 0);
}

TEST_CASE("a model has 8 experts and top-2 unless given others, and any of four activations") {
  STATIC_REQUIRE(std::is_same_v<Preset::RouterRecipe, TopKRouter<8, 2>>);
  STATIC_REQUIRE(std::is_same_v<presets::gpt2_moe<four_of_five>::RouterRecipe, TopKRouter<5, 4>>);
  CHECK(Preset::config.activation == Activation::gelu);
  for (const Activation a : {Activation::gelu, Activation::relu, Activation::silu, Activation::tanh})
    CHECK(std::find(activation_names.begin(), activation_names.end(), to_text(a)) != activation_names.end());
  using Relu = presets::gpt2_moe<tiny, presets::GPT2{.activation = Activation::relu}>;
  using Swish = presets::gpt2_moe<tiny, presets::GPT2{.activation = Activation::silu}>;
  using Tanh = presets::gpt2_moe<tiny, presets::GPT2{.activation = Activation::tanh}>;
  CHECK(Relu::config.activation == Activation::relu);
  CHECK(Swish::config.activation == Activation::silu);
  CHECK(Tanh::config.activation == Activation::tanh);
}

TEST_CASE("experts have a dropout rate of their own, which applies in training only") {
  const Run run;
  Model::Workspace work{shape};
  const auto loss = [&](double rate, std::optional<Key> key) {
    Objective objective = Preset::objective(rate);
    objective.dropout = 0;
    return run.model->forward(run.batch, work, key, objective).cross_entropy;
  };
  CHECK(loss(0, Key{1}) == run.loss.cross_entropy);
  CHECK(loss(0.5, {}) == run.loss.cross_entropy);
  CHECK(loss(0.5, Key{1}) != run.loss.cross_entropy);
}

TEST_CASE("gate scores are a softmax, and each token's top-k scores are the largest, in order") {
  const Run run;
  REQUIRE(run.seen.layers.size() == 2);
  for (const auto& layer : run.seen.layers) {
    REQUIRE((layer.gate_scores.size() == N * E && layer.top_k_scores.size() == N * K &&
             layer.top_k_indices.size() == N * K));
    for (std::size_t n = 0; n < N; ++n) {
      const auto row = layer.gate_scores.begin() + static_cast<std::ptrdiff_t>(n * E);
      std::vector<double> sorted(row, row + E);
      double sum = 0;
      for (const double s : sorted) sum += s;
      CHECK(sum == Approx(1));
      std::sort(sorted.rbegin(), sorted.rend());
      for (std::size_t j = 0; j < K; ++j) {
        CHECK(layer.top_k_scores[n * K + j] == sorted[j]);
        CHECK(row[layer.top_k_indices[n * K + j]] == sorted[j]);
        CHECK(layer.gates[n * K + j] == Approx(sorted[j] / (sorted[0] + sorted[1])));  // renormalised
      }
    }
  }
}

TEST_CASE("the final output is the sum of the experts' outputs times their gates") {
  const Run run;
  for (const auto& layer : run.seen.layers) {
    REQUIRE((layer.expert_outputs.size() == N * K * D && layer.final_output.size() == N * D));
    for (std::size_t n = 0; n < N; ++n)
      for (std::size_t i = 0; i < D; ++i) {
        double y = 0;
        for (std::size_t j = 0; j < K; ++j)
          y += layer.gates[n * K + j] * layer.expert_outputs[(n * K + j) * D + i];
        CHECK(layer.final_output[n * D + i] == Approx(y).margin(1e-13));
      }
  }
}

TEST_CASE("the balance loss is the unbiased variance over experts of the mean score, with its coefficient") {
  const Run run;
  double all = 0;
  for (const auto& layer : run.seen.layers) {
    double mean[E] = {}, variance = 0;
    for (std::size_t i = 0; i < N * E; ++i) mean[i % E] += layer.gate_scores[i] / N;
    for (const double m : mean) variance += (m - 1.0 / E) * (m - 1.0 / E) / (E - 1);
    CHECK(layer.variance_loss == Approx(variance));
    all += variance;
  }
  CHECK(run.loss.variance == Approx(all));
  CHECK(run.loss.total(Preset::objective()) == Approx(run.loss.cross_entropy + 0.01 * all));
}

TEST_CASE("all intermediate data come back from a file, and from JSON") {
  const Run run;
  const TemporaryFolder folder;
  save_safetensors(folder / "seen.safetensors", run.seen);
  const SafetensorsFile file = read_safetensors(folder / "seen.safetensors");
  const nlohmann::json json = nlohmann::json::parse(to_json(run.seen));
  for (std::size_t l = 0; l < 2; ++l) {
    const auto& layer = run.seen.layers[l];
    int arrays = 0;
    layer.for_each_array([&](const std::string& name, const auto& numbers, const std::vector<Index>&) {
      const TensorInfo& tensor = file.header.tensors.at("layers." + std::to_string(l) + "." + name);
      const std::size_t bytes = numbers.size() * sizeof numbers[0];
      REQUIRE(static_cast<std::size_t>(tensor.end - tensor.begin) == bytes);
      CHECK(std::memcmp(file.bytes(tensor).data(), numbers.data(), bytes) == 0);
      CHECK(json["layers"][l].contains(name));
      ++arrays;
    });
    CHECK(arrays == 9);  // with expert_outputs
    CHECK(json["layers"][l]["gate_scores"][3][2] == layer.gate_scores[3 * E + 2]);
    CHECK(json["layers"][l]["expert_outputs"][3][1][2] == layer.expert_outputs[(3 * K + 1) * D + 2]);
    CHECK(json["layers"][l]["variance_loss"] == layer.variance_loss);
    CHECK(json["layers"][l].contains("balance_loss"));
  }
}

TEST_CASE("usage of experts is the count of their selections, over any number of batches") {
  Run run;
  RoutingStatistics<Model> statistics;
  std::vector<Index> counted(2 * E);
  for (std::uint64_t seed = 2; seed < 5; ++seed) {
    run.model->forward(random_batch(shape, 11, seed), run.work);
    statistics.add(*run.model, run.work);
    const auto seen = intermediates(*run.model, run.work);
    for (std::size_t l = 0; l < 2; ++l)
      for (const int e : seen.layers[l].top_k_indices) ++counted[l * E + static_cast<std::size_t>(e)];
  }
  for (std::size_t l = 0; l < 2; ++l)
    for (std::size_t e = 0; e < E; ++e) {
      const auto& routing = statistics.layers[l].routing;
      CHECK(routing.load[e] == counted[l * E + e]);
      CHECK(routing.share(static_cast<int>(e)) ==
            Approx(static_cast<double>(counted[l * E + e]) / (3 * N * K)));
    }
}

TEST_CASE("generation with a cache of keys and values has the ids that the whole text gives") {
  const auto model = random_model<Model>(1);
  Generator<Model> generator(*model, {.temperature = 0}, Rng(1));
  std::vector<int> ids{3, 1, 4};
  for (int id = generator.next(ids); std::ssize(ids) < Model::config.context; id = generator.next(id)) {
    Model::Workspace work{{1, std::ssize(ids)}};
    model->forward({{1, std::ssize(ids)}, ids, ids}, work);
    const double* last = work.tape.head.logits[std::ssize(ids) - 1];
    CHECK(id == std::max_element(last, last + 11) - last);
    ids.push_back(id);
  }
}

TEST_CASE("a configuration that makes no sense is rejected when it is made") {
  // Extents and choices do not compile: tests/compile_fail. Numbers of a run throw:
  Objective objective = Preset::objective();
  const auto made = [&] { return refusal([&] { Model::Workspace work(shape, {}, objective); }); };
  CHECK(made().empty());
  objective.variance = -0.01;
  CHECK(contains(made(), "variance"));
  objective = Preset::objective(1.0);
  CHECK(contains(made(), "dropout"));
  CHECK(contains(refusal([] { Model::Workspace work({2, 13}); }), "context is 12"));
  Run run;
  run.model->options.norm_epsilon = 0;
  CHECK(contains(refusal([&] { run.model->forward(run.batch, run.work); }), "norm_epsilon"));
}
