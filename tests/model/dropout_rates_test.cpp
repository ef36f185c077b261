// Two rates: one for attention and residual branches, and one for the outputs of experts.
#include "support.hpp"

#include <moegpt/moe/shared_experts.hpp>

namespace {

constexpr Config config{
    .vocab = 11, .context = 8, .dim = 12, .layers = 2, .heads = 3, .hidden = 10, .dense_first = 1};
using Model = GPT<config, SharedExperts<TopKRouter<4, 2>>>;
constexpr Key key{7};

std::vector<float> logits(const Model& model, const Objective& objective) {
  const Batch batch = random_batch({2, 8}, config.vocab, 2);
  Model::Workspace work({2, 8}, {}, objective);
  model.forward(batch, work, key);
  const float* first = work.tape.head.logits[0];
  return {first, first + 16 * config.vocab};
}

// Of a dense network; of routed and shared experts, which have one rate.
double rate_of(const auto& tape) {
  if constexpr (requires { tape.network; })
    return tape.network.dropout.probability;
  else {
    CHECK(tape.expert.dropout.probability == tape.shared.dropout.probability);
    return tape.expert.dropout.probability;
  }
}

}  // namespace

TEST_CASE("experts drop at the common rate unless they have one of their own") {
  const auto model = random_model<Model>(1);
  const auto common = logits(*model, {.dropout = 0.3});
  CHECK(common == logits(*model, {.dropout = 0.3, .expert_dropout = 0.3}));
  CHECK(common != logits(*model, {.dropout = 0.3, .expert_dropout = 0.0}));
  CHECK(common != logits(*model, {.dropout = 0.3, .expert_dropout = 0.6}));
}

TEST_CASE("the rate of experts is that of mixtures alone, shared experts included") {
  const auto model = random_model<Model>(1);
  const Batch batch = random_batch({2, 8}, config.vocab, 2);
  Model::Workspace work({2, 8}, {}, {.dropout = 0.1, .expert_dropout = 0.6});
  model->forward(batch, work, key);
  work.tape.trunk.blocks.at_layer(0, [](const auto& dense) {
    CHECK(dense.attention.dropout == 0.1);
    CHECK(dense.dropout.probability == 0.1);
    CHECK(rate_of(dense.mixture) == 0.1);
  });
  work.tape.trunk.blocks.at_layer(1, [](const auto& block) {
    CHECK(block.attention.dropout == 0.1);
    CHECK(block.dropout.probability == 0.1);
    CHECK(rate_of(block.mixture) == 0.6);
  });
  model->forward(batch, work);
  work.tape.trunk.blocks.at_layer(1, [](const auto& block) { CHECK(rate_of(block.mixture) == 0); });
}

TEST_CASE("a rate of experts outside its range is rejected when the workspace is made") {
  for (const double rate : {-0.1, 1.0, std::nan("")})
    CHECK(
        contains(refusal([&] { Model::Workspace({2, 8}, {}, {.expert_dropout = rate}); }), "expert_dropout"));
}
