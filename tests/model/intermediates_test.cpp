#include <moegpt/model/intermediates.hpp>
#include <moegpt/model/gpt.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/routing/gshard_router.hpp>
#include <moegpt/moe/projected_mixture.hpp>
#include <moegpt/moe/shared_experts.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

constexpr Config config{
    .vocab = 7, .context = 6, .dim = 8, .layers = 3, .heads = 2, .hidden = 12, .dense_first = 1};
using Model = GPT<config, TopKRouter<4, 2>, double>;

// The batch is a temporary: intermediates must not need it any more.
template <class M>
void run(const M& model, Workspace<M>& work) {
  Batch batch{{2, 6}, {}, std::vector<int>(12, 2), {}};
  for (int n = 0; n < 12; ++n) batch.inputs.push_back(n * n % 7);
  model.forward(batch, work);
}

// A user's mixture around another. With a tape that derives from the inner one's it has all but the experts,
// which it hands on or not.
template <class Inner, bool Tells>
struct Around {
  using Scalar = typename Inner::Scalar;
  using Tape = typename Inner::Tape;
  using Scratch = typename Inner::Scratch;
  static constexpr int dim_in = Inner::dim_in, dim_out = Inner::dim_out;
  static constexpr bool causal = true;
  static constexpr std::string_view name = "moe";
  Inner inner;
  static constexpr auto fields() { return Fields{Field{"", &Around::inner}}; }
  void forward(In<dim_in, Scalar> x, Out<dim_out, Scalar> y, Tape& tape, Scratch& scratch,
               const Pass& pass) const {
    inner.forward(x, y, tape, scratch, pass);
  }
  void backward(In<dim_in, Scalar> x, const Tape& tape, In<dim_out, Scalar> dy, Out<dim_in, Scalar> dx,
                Around& grad, Scratch& scratch, const Pass& pass) const {
    inner.backward(x, tape, dy, dx, grad.inner, scratch, pass);
  }
  auto routed_experts() const
    requires Tells
  {
    return inner.routed_experts();
  }
};
template <bool Tells>
struct AroundTopK : TopKRouter<4, 2> {
  template <class Self, ExpertNetwork X>
  using Mixture = Around<MoELayer<TopKRouter<4, 2>, X>, Tells>;
};

}  // namespace

TEST_CASE("intermediates are what the tape holds, for each mixture") {
  Model model;
  draw_weights(model, 1);
  Model::Workspace work{{2, 6}};
  run(model, work);
  const auto all = intermediates(model, work);
  CHECK(all.shape == Shape{2, 6});
  REQUIRE(all.layers.size() == 2);
  const auto& layer = all.layers[1];
  const auto& tape = work.tape.trunk.blocks.second[1].mixture;
  CHECK(layer.layer == 2);
  CHECK(layer.experts == 4);
  CHECK(layer.choices == 2);
  CHECK(layer.dim == 8);
  CHECK(layer.tokens == 12);
  REQUIRE(layer.gate_scores.size() == 12 * 4);
  for (std::size_t n = 0; n < 12; ++n) {
    double sum = 0;
    for (std::size_t e = 0; e < 4; ++e) sum += layer.gate_scores[n * 4 + e];
    CHECK(sum == Approx(1));
    for (std::size_t j = 0; j < 2; ++j) {
      const auto pair = n * 2 + j;
      const int e = layer.top_k_indices[pair];
      CHECK(e == tape.router.chosen[static_cast<Index>(pair)]);
      CHECK(layer.top_k_scores[pair] == layer.gate_scores[n * 4 + static_cast<std::size_t>(e)]);
      CHECK(layer.dropped[pair] == 0);
    }
    CHECK(layer.top_k_scores[n * 2] >= layer.top_k_scores[n * 2 + 1]);
    CHECK(layer.gates[n * 2] + layer.gates[n * 2 + 1] == Approx(1));
  }
  CHECK(layer.load == layer.wanted);
  CHECK(layer.load[0] + layer.load[1] + layer.load[2] + layer.load[3] == 24);
  CHECK(layer.balance_loss == tape.balance);
  CHECK(layer.z_loss == tape.z);
  CHECK(layer.importance_loss == tape.importance);
  CHECK(layer.expert_outputs.empty());  // nobody asked
}

TEST_CASE("the final output is the gates times what the experts answered") {
  Model model;
  draw_weights(model, 2);
  model.options.capacity_factor = 0.75;  // some pairs are dropped
  for (const int threads : {1, 2}) {
    Model::Workspace work{{2, 6}, {.threads = threads}};
    run(model, work);
    const auto all = intermediates(model, work, {.expert_outputs = true});
    int dropped = 0;
    for (const auto& layer : all.layers) {
      REQUIRE(layer.expert_outputs.size() == 12 * 2 * 8);
      double worst = 0, largest = 0;
      for (std::size_t n = 0; n < 12; ++n)
        for (std::size_t i = 0; i < 8; ++i) {
          double y = 0;
          for (std::size_t j = 0; j < 2; ++j)
            y += layer.gates[n * 2 + j] * layer.expert_outputs[(n * 2 + j) * 8 + i];
          worst = std::max(worst, std::abs(y - layer.final_output[n * 8 + i]));
          largest = std::max(largest, std::abs(y));
        }
      CHECK(worst <= 1e-14 * largest);  // at most the order of two additions
      CHECK(largest > 0.01);
      for (std::size_t pair = 0; pair < 24; ++pair) {
        dropped += layer.dropped[pair];
        CHECK(layer.top_k_indices[pair] >= 0);  // one that was dropped is still named
        if (layer.dropped[pair]) {
          CHECK(layer.gates[pair] == 0);
          CHECK(layer.top_k_scores[pair] > 0);
          CHECK(layer.expert_outputs[pair * 8] == 0);
        }
      }
    }
    Index counted = 0;
    for (const auto& block : work.tape.trunk.blocks.second) counted += block.mixture.plan.dropped();
    CHECK(dropped == counted);
    CHECK(dropped > 0);
  }
}

TEST_CASE("a token that fewer experts chose has no index in the places that are left") {
  using Chooses = GPT<config, AllowNonCausal<ExpertChoiceRouter<4, 2>>, double>;
  Chooses model;
  draw_weights(model, 1);
  Chooses::Workspace work{{2, 6}};
  run(model, work);
  const auto all = intermediates(model, work);
  const auto& layer = all.layers[0];
  Index chosen = 0;
  for (std::size_t pair = 0; pair < layer.gates.size(); ++pair) {
    CHECK((layer.top_k_indices[pair] >= 0) == (layer.gates[pair] > 0));
    CHECK(layer.dropped[pair] == 0);
    chosen += layer.top_k_indices[pair] >= 0;
  }
  CHECK(layer.choices == 4);
  CHECK(chosen == 24);  // 4 experts with 12 * 2 / 4 tokens each
}

TEST_CASE("a second expert that was left out is named, and counts as dropped") {
  using LeavesOut = GPT<config, GShardRouter<4, Second::none>, double>;
  LeavesOut model;
  draw_weights(model, 1);
  LeavesOut::Workspace work{{2, 6}};
  run(model, work);
  const auto layer = intermediates(model, work).layers[0];
  for (std::size_t n = 0; n < 12; ++n) {
    CHECK(layer.dropped[2 * n] == 0);
    CHECK(layer.dropped[2 * n + 1] == 1);
    CHECK(layer.top_k_indices[2 * n + 1] >= 0);
    CHECK(layer.top_k_indices[2 * n + 1] != layer.top_k_indices[2 * n]);
    CHECK(layer.gates[2 * n + 1] == 0);
  }
}

TEST_CASE("experts beside shared ones and before a shared projection answer too") {
  using Shared = GPT<config, SharedExperts<TopKRouter<4, 2>, 1>, double>;
  using Projected = GPT<config, WithSharedProjection<TopKRouter<4, 2>, 5>, double>;
  Shared shared;
  draw_weights(shared, 1);
  Shared::Workspace shared_work{{2, 6}};
  run(shared, shared_work);
  const auto beside = intermediates(shared, shared_work, {.expert_outputs = true});
  CHECK(beside.layers[0].expert_dim == 8);
  REQUIRE(beside.layers[0].expert_outputs.size() == 12 * 2 * 8);

  Projected projected;
  draw_weights(projected, 1);
  Projected::Workspace work{{2, 6}};
  run(projected, work);
  const auto all = intermediates(projected, work, {.expert_outputs = true});
  const auto& layer = all.layers[0];
  CHECK(layer.expert_dim == 5);
  REQUIRE(layer.expert_outputs.size() == 12 * 2 * 5);
  CHECK(layer.final_output.size() == 12 * 8);
  const auto& mixed = work.tape.trunk.blocks.second[0].mixture.mixed;  // before the projection
  for (std::size_t n = 0; n < 12; ++n)
    for (std::size_t i = 0; i < 5; ++i) {
      double y = 0;
      for (std::size_t j = 0; j < 2; ++j)
        y += layer.gates[n * 2 + j] * layer.expert_outputs[(n * 2 + j) * 5 + i];
      CHECK(y == Approx(mixed[static_cast<Index>(n)][i]).margin(1e-14));
    }
}

TEST_CASE(
    "a mixture around another has its expert outputs if it hands on the experts, and is rejected otherwise") {
  using Plain = GPT<config, TopKRouter<4, 2>, double>;
  using Tells = GPT<config, AroundTopK<true>, double>;
  using Silent = GPT<config, AroundTopK<false>, double>;
  const auto of = [](auto&& model, bool expert_outputs) {
    draw_weights(model, 3);
    typename std::remove_cvref_t<decltype(model)>::Workspace work{{2, 6}};
    run(model, work);
    return intermediates(model, work, {.expert_outputs = expert_outputs});
  };
  const auto plain = of(Plain{}, true), tells = of(Tells{}, true);
  REQUIRE(tells.layers.size() == 2);
  CHECK(tells.layers[1].expert_outputs == plain.layers[1].expert_outputs);
  CHECK(tells.layers[1].gate_scores == plain.layers[1].gate_scores);
  CHECK(of(Silent{}, false).layers.size() == 2);  // without them nothing is missing
  CHECK(refusal([&] { of(Silent{}, true); })
            .find("the mixture of layer 1 has a plan, but does not say of which "
                  "experts: give it routed_experts()") != std::string::npos);
}

TEST_CASE("intermediates of logits with a cache are those of a forward of the same tokens") {
  Model model;
  draw_weights(model, 4);
  const Objective objective{.balance = 0.1, .balance_rule = BalanceRule::megablocks};
  Model::Workspace training{{2, 6}, {}, objective}, work{{2, 6}, {2}, objective, Use::inspection};
  Batch batch{{2, 6}, {}, std::vector<int>(12, 2), {}};
  for (int n = 0; n < 12; ++n) batch.inputs.push_back(n * n % 7);
  model.forward(batch, training);
  const auto whole = intermediates(model, training, {.expert_outputs = true});

  Model::Cache cache{2};
  model.logits(batch.inputs, work, cache);
  const auto at_once = intermediates(model, work, {.expert_outputs = true});
  REQUIRE(at_once.layers.size() == whole.layers.size());
  for (std::size_t l = 0; l < whole.layers.size(); ++l) {
    CHECK(at_once.layers[l].gate_scores == whole.layers[l].gate_scores);
    CHECK(at_once.layers[l].load == whole.layers[l].load);
    CHECK(at_once.layers[l].balance_loss == whole.layers[l].balance_loss);
  }

  cache.clear();
  for (const Rows positions : {Rows{0, 4}, Rows{4, 2}}) {  // of each call
    const auto [first, count] = positions;
    std::vector<int> ids;
    for (Index b = 0; b < 2; ++b)
      for (Index t = first; t < first + count; ++t)
        ids.push_back(batch.inputs[static_cast<std::size_t>(b * 6 + t)]);
    model.logits(ids, work, cache);
    const auto all = intermediates(model, work, {.expert_outputs = true});
    CHECK(all.shape == Shape{2, count});
    REQUIRE(all.layers.size() == 2);
    for (std::size_t l = 0; l < 2; ++l) {
      CHECK(all.layers[l].layer == whole.layers[l].layer);
      for (Index n = 0; n < 2 * count; ++n) {
        const Index of_whole = n / count * 6 + first + n % count;
        const auto same = [&](const auto& some, const auto& full, Index each) {
          return std::equal(some.begin() + n * each, some.begin() + (n + 1) * each,
                            full.begin() + of_whole * each);
        };
        CHECK(same(all.layers[l].gate_scores, whole.layers[l].gate_scores, 4));
        CHECK(same(all.layers[l].top_k_indices, whole.layers[l].top_k_indices, 2));
        CHECK(same(all.layers[l].gates, whole.layers[l].gates, 2));
        CHECK(same(all.layers[l].expert_outputs, whole.layers[l].expert_outputs, 2 * 8));
        CHECK(same(all.layers[l].final_output, whole.layers[l].final_output, 8));
      }
    }
  }
}

TEST_CASE("intermediates reject a workspace that keeps one layer only") {
  Model model;
  Model::Workspace work{{2, 6}, {}, {}, Use::inference};
  CHECK(refusal([&] { intermediates(model, work); }).find("make it for training") != std::string::npos);
}

TEST_CASE("a workspace without a forward that returned has no intermediates") {
  const Model model;
  const Model::Workspace work{{2, 6}};
  CHECK(refusal([&] { intermediates(model, work); }).find("no forward of this workspace has returned") !=
        std::string::npos);
}
