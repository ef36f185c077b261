#include <moegpt/model/transformer.hpp>
#include <moegpt/model/intermediates.hpp>
#include <moegpt/model/routing_statistics.hpp>
#include <moegpt/model/selection_bias.hpp>
#include <moegpt/routing/sigmoid_router.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support.hpp"

namespace {

constexpr Config config{
    .vocab = 7, .context = 6, .dim = 6, .layers = 3, .heads = 2, .hidden = 5, .dense_first = 1};
constexpr Config encoder = [] {
  Config c = config;
  c.mask = Mask::full, c.residual = Residual::post_norm, c.norm = Norm::rms, c.positions = Positions::rotary;
  c.head_dim = 4;
  return c;
}();
template <class T = float>
using Trunk = Transformer<config, TopKRouter<4, 2>, T>;
static_assert(lists_every_field<Trunk<>>());
static_assert(lists_every_field<GPT<config, TopKRouter<4, 2>>>());

template <class Tree>
std::vector<std::string> paths_of(const Tree& tree) {
  std::vector<std::string> paths;
  for_each_named_weight([&](const std::string& path, Kind, const auto&) { paths.push_back(path); }, tree);
  return paths;
}

template <class TrunkType>
void examine(const Pass& pass, const Objective& objective) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const GradcheckReport report = gradcheck<TrunkType>(
        {.seed = seed, .pass = pass, .routing = {.objective = objective}, .per_tensor = 24});
    INFO("seed " << seed << ", worst " << report.worst << " in " << report.where);
    INFO(report.message);
    REQUIRE(report.ok);
    REQUIRE(report.worst <= 1e-6);
  }
}

}  // namespace

TEST_CASE("a model's paths are its trunk's and then its head's") {
  std::vector<std::string> paths = paths_of(Trunk<>());
  CHECK(paths.front() == "token_embedding.weight");
  CHECK(paths.back() == "norm.bias");
  paths.push_back("head.weight");
  CHECK(paths_of(GPT<config, TopKRouter<4, 2>>()) == paths);
}

TEST_CASE("a trunk alone gives the bits of the trunk in a model, and takes the same initial weights") {
  using Model = GPT<config, TopKRouter<4, 2>>;
  Model model;
  Trunk<> trunk;
  init(model, Key{3});
  init(trunk, Key{3});
  CHECK(first_difference(trunk, model.trunk).empty());
  const Objective objective{.dropout = 0.2, .balance = 0.1, .balance_rule = BalanceRule::megablocks};
  Model::Workspace of_model{{2, 6}, {}, objective};
  Trunk<>::Workspace work{{2, 6}, {2}, objective}, inference{{2, 6}, {}, objective, Use::inference};
  const Batch batch = random_batch({2, 5}, 7, 1);
  const Loss loss = model.forward(batch, of_model, Key{4});
  Tokens<6, float> y(10), y2(10);
  const Pass pass = trunk.prepare(batch.inputs, {.shape = batch.shape, .key = Key{4}}, work, objective);
  const RouterLosses<double> losses = trunk.forward(batch.inputs, y, work.tape, work.scratch, pass);
  CHECK(same_bits(y[0], of_model.tape.normed[0], 10 * 6));
  CHECK(losses.balance == loss.balance);
  const Pass pass2 = trunk.prepare(batch.inputs, {.shape = batch.shape, .key = Key{4}}, inference, objective);
  CHECK(trunk.forward(batch.inputs, y2, inference.tape, inference.scratch, pass2).balance == loss.balance);
  CHECK(same_bits(y[0], y2[0], 10 * 6));
  Trunk<> grad;
  CHECK(contains(
      refusal([&] { trunk.backward(batch.inputs, inference.tape, y, grad, inference.scratch, pass2); }),
      "a workspace made for training"));
}

TEST_CASE(
    "gradients of a trunk are its differences, for a decoder and an encoder, with padding and every loss") {
  const Objective objective{
      .dropout = 0.2, .balance = 0.5, .balance_rule = BalanceRule::megablocks, .z = 0.3};
  const Index lengths[] = {5, 3};
  examine<Trunk<double>>({.shape = {2, 5}, .key = Key{42}, .lengths = lengths}, objective);
  examine<Transformer<encoder, TopKRouter<4, 2>, double>>({.shape = {2, 5}, .key = Key{42}}, objective);
  examine<Transformer<encoder, Dense, double>>({.shape = {2, 5}}, {});
}

TEST_CASE("what looks into the mixtures of a model looks into a trunk's as well") {
  using Biased = Transformer<config, SigmoidRouter<4, 2>>;
  Biased trunk;
  init(trunk, Key{1});
  Biased::Workspace work{{2, 6}};
  const std::vector<int> ids = random_ids(12, 7, 3);
  Tokens<6, float> y(12);
  RoutingStatistics<Biased> statistics;
  CHECK(contains(refusal([&] { statistics.add(trunk, work); }), "no forward of this workspace has returned"));
  trunk.forward(ids, y, work.tape, work.scratch, trunk.prepare(ids, {.shape = {2, 6}}, work, {}));
  work.last.complete = true;
  statistics.add(trunk, work);
  REQUIRE(statistics.layers.size() == 2);
  CHECK(statistics.layers[1].layer == 2);
  const auto all = intermediates(trunk, work, {.expert_outputs = true});
  REQUIRE(all.layers.size() == 2);
  CHECK(all.layers[1].expert_outputs.size() == 12 * 2 * 6);
  balance_selection(trunk, work, 0.001);
  CHECK(trunk.blocks.second[0].mixture.router.selection_bias[0] != 0);
}

TEST_CASE("a trunk refuses ids and shapes that do not fit, and a pass that it did not prepare") {
  Trunk<> trunk;
  Trunk<>::Workspace work{{2, 4}};
  Tokens<6, float> y(8);
  const auto prepared = [&](std::vector<int> ids, Pass pass) {
    return refusal([&] { trunk.prepare(ids, pass, work, {}); });
  };
  CHECK(contains(prepared({1, 2, 7, 0}, {.shape = {1, 4}}), "input 2 has token id 7, expected 0 .. 6"));
  CHECK(contains(prepared({1, 2, 3}, {.shape = {1, 4}}), "the batch has 3 ids for 1 x 4 tokens"));
  CHECK(contains(prepared(std::vector<int>(9, 1), {.shape = {3, 3}}), "the workspace was made for 2 x 4"));
  CHECK(contains(prepared({1}, {.shape = {1, 1}, .options = {.norm_epsilon = -1}}), "norm_epsilon is -1"));
  const std::vector<int> ids(8, 1);
  CHECK(contains(refusal([&] { trunk.forward(ids, y, work.tape, work.scratch, {.shape = {2, 3}}); }),
                 "pass.shape is 2 x 3 tokens"));
}
