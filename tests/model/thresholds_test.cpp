#include <moegpt/model/thresholds.hpp>
#include <moegpt/routing/input_jitter.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/moe/projected_mixture.hpp>
#include <moegpt/moe/shared_experts.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 11, .context = 8, .dim = 8, .layers = 3, .heads = 2, .dense_first = 1};
using Model = GPT<config, AllowNonCausal<ThresholdExpertChoice<4, 2>>>;

}  // namespace

TEST_CASE(
    "learned thresholds keep the load of evaluation near that of training, and no gradient moves them") {
  const auto model = random_model<Model>(1);
  for (auto& block : model->trunk.blocks.second) block.mixture.router.threshold.memory().fill(0);
  Workspace<Model> work({8, 8});
  Model grad;
  double pairs = 0;
  for (std::uint64_t step = 1; step <= 60; ++step) {
    const Batch batch = random_batch({8, 8}, 11, step);
    model->forward(batch, work, Key{step});
    model->backward(batch, work, grad);
    update_thresholds(*model, work, 0.1);
    for (const auto& block : work.tape.trunk.blocks.second) CHECK(block.mixture.plan.slot_count() == 64 * 2);
  }
  for (auto& block : grad.trunk.blocks.second)
    for (const float g : block.mixture.router.threshold) CHECK(g == 0);
  for (std::uint64_t step = 101; step <= 120; ++step) {
    model->forward(random_batch({8, 8}, 11, step), work);
    for (const auto& block : work.tape.trunk.blocks.second)
      pairs += static_cast<double>(block.mixture.plan.slot_count());
  }
  CHECK(pairs / 20 / 2 / 64 == Approx(2).epsilon(0.1));  // experts per token; batches differ by some per cent
}

TEST_CASE("thresholds are learned only from a training forward and at a rate above zero") {
  const auto model = random_model<Model>(2);
  Workspace<Model> work({2, 8});
  const Batch batch = random_batch({2, 8}, 11, 3);
  model->forward(batch, work);
  CHECK(contains(refusal([&] { update_thresholds(*model, work, 0.1); }), "had no key"));
  model->forward(batch, work, Key{1});
  CHECK(contains(refusal([&] { update_thresholds(*model, work, 0); }), "the rate is 0"));
  CHECK_NOTHROW(update_thresholds(*model, work, 1));
}

TEMPLATE_TEST_CASE("thresholds are learned wherever the router lies, from scores and not from masked gates",
                   "", (SharedExperts<ThresholdExpertChoice<4, 2>>), (Masked<ThresholdExpertChoice<4, 2>>),
                   (WithSharedProjection<InputJitter<ThresholdExpertChoice<4, 2>>, 5>)) {
  using Wrapped = GPT<config, AllowNonCausal<TestType>>;
  const auto model = random_model<Wrapped>(6);
  Workspace<Wrapped> work({1, 8});
  for (std::uint64_t seed = 1; seed <= 10;
       ++seed) {  // four slots for an expert: the least score lies in any of them
    model->forward(random_batch({1, 8}, 11, seed), work, Key{seed});
    update_thresholds(*model, work, 1);
    for_each_mixture(*model, work, [&](int, auto& mixture, const auto& tape) {
      for_each_named_weight(
          [&](const std::string& path, Kind, auto& threshold) {
            if (!path.ends_with("threshold")) return;
            for (int e = 0; e < 4; ++e) {
              float least = 1;
              for (Index s = tape.plan.offset[e]; s < tape.plan.offset[e + 1]; ++s)
                least = std::min(least, tape.router.score[tape.plan.token[s]][e]);
              CHECK(threshold[e] == Approx(least).epsilon(1e-6));
            }
          },
          mixture);
    });
  }
}

TEST_CASE("a model without thresholds rejects to learn them") {
  using Plain = GPT<config, TopKRouter<4, 2>>;
  const auto model = random_model<Plain>(8);
  Workspace<Plain> work({2, 8});
  model->forward(random_batch({2, 8}, 11, 9), work, Key{1});
  CHECK(contains(refusal([&] { update_thresholds(*model, work, 0.1); }),
                 "no router of this model has thresholds"));
}

TEST_CASE("only a buffer called threshold is one: another name that ends so is left alone") {
  struct Router {
    Weight<float, 4> no_threshold;
    static constexpr auto fields() {
      return Fields{Field{"no_threshold", &Router::no_threshold, Kind::buffer}};
    }
  };
  Router router;
  RoutingPlan<float> plan;
  plan.resize(1, 1, 4);
  CHECK_FALSE(detail::update_thresholds_of(router, plan, MatrixView<const float>{}, 0.1));
}

TEST_CASE("a model that evaluates by thresholds generates the logits of its evaluation") {
  const auto model = random_model<Model>(4);
  for (auto& block : model->trunk.blocks.second) block.mixture.router.threshold.memory().fill(0.2f);
  const std::vector<int> ids = random_ids(8, 11, 5);
  Workspace<Model> work({1, 8});
  model->forward({{1, 8}, ids, ids}, work);
  const std::vector<float> all(work.tape.head.logits[0], work.tape.head.logits[0] + 8 * 11);
  typename Model::Cache cache;
  for (std::size_t t = 0; t < 8; ++t) {
    const auto one = model->logits(std::span(ids).subspan(t, 1), work, cache);
    for (int v = 0; v < 11; ++v)
      CHECK(one[0][v] == Approx(all[t * 11 + static_cast<std::size_t>(v)]).margin(1e-5));
  }
}

TEST_CASE("thresholds of a workspace without a forward that returned are rejected") {
  const auto model = random_model<Model>(2);
  const Workspace<Model> work({2, 8});
  CHECK(contains(refusal([&] { update_thresholds(*model, work, 0.1); }),
                 "no forward of this workspace has returned"));
}
