// Padding of a batch (Batch::lengths) takes part in nothing: one padded sequence is the sequence, and a
// padded sequence of a batch does not notice the others.
#include "support.hpp"

#include <moegpt/core/runs.hpp>
#include <moegpt/model/routing_statistics.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/routing/gshard_router.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/routing/sigmoid_router.hpp>
#include <moegpt/moe/soft_moe.hpp>

namespace {

constexpr Config config{.vocab = 11, .context = 160, .dim = 12, .layers = 2, .heads = 3, .hidden = 10};
constexpr Config llama = [] {
  Config c = config;
  c.heads = 6, c.kv_heads = 2, c.norm = Norm::rms, c.positions = Positions::rotary, c.gated = true,
  c.dense_first = 1;
  return c;
}();
constexpr Config post_norm = [] {
  Config c = config;
  c.residual = Residual::post_norm, c.tied = true, c.head_bias = true;
  return c;
}();
constexpr Config encoder = [] {
  Config c = config;
  c.mask = Mask::full;
  return c;
}();

using TopTwo = GPT<config, TopKRouter<5, 2>>;
using Llama = GPT<llama, SharedExperts<NoisyTopKRouter<5, 2>, 1, Shared::gated>>;
using PostNorm = GPT<post_norm, GShardRouter<5>>;
using Encoder = GPT<encoder, SigmoidRouter<6, 2>>;
using SequenceChoice = GPT<encoder, ExpertChoiceRouter<4, 2, ExpertChoice{.group = Group::sequence}>>;
using Soft = GPT<encoder, SoftMoE<3, 2>>;

// The first `length` tokens of each sequence of `batch`, up to `shape.length`, then ids that nothing should
// look at.
Batch padded(const Batch& batch, Index length, const std::vector<Index>& lengths) {
  Batch to{{batch.shape.batch, length},
           random_ids(batch.shape.batch * length, config.vocab, 77),
           random_ids(batch.shape.batch * length, config.vocab, 78),
           {},
           lengths};
  for (Index b = 0; b < batch.shape.batch; ++b)
    for (Index t = 0; t < lengths[static_cast<std::size_t>(b)]; ++t) {
      const auto from = static_cast<std::size_t>(b * batch.shape.length + t),
                 at = static_cast<std::size_t>(b * length + t);
      to.inputs[at] = batch.inputs[from];
      to.targets[at] = batch.targets[from];
    }
  return to;
}
// Sequence b of a batch, alone and without its padding.
Batch alone(const Batch& batch, Index b) {
  const Index length = batch.lengths[static_cast<std::size_t>(b)], first = b * batch.shape.length;
  return {{1, length},
          {batch.inputs.begin() + first, batch.inputs.begin() + first + length},
          {batch.targets.begin() + first, batch.targets.begin() + first + length}};
}

const Objective everything{.dropout = 0.2,
                           .balance = 0.3,
                           .balance_rule = BalanceRule::deepseek,
                           .z = 0.02,
                           .importance = 0.1,
                           .load = 0.1,
                           .variance = 0.2,
                           .count = 0.01};

}  // namespace

TEMPLATE_TEST_CASE("one padded sequence has the loss and the gradients of the unpadded one bit for bit", "",
                   TopTwo, Llama, PostNorm, Encoder, SequenceChoice, Soft) {
  const Index length = GENERATE(Index{1}, Index{97});
  const std::optional<Key> key = GENERATE(std::optional<Key>{}, std::optional<Key>{Key{5}});
  const int threads = GENERATE(1, 2);
  CAPTURE(length, key.has_value(), threads);
  const auto model = random_model<TestType>(1);
  model->options.min_capacity = 1;  // one token is less than expert choice wants
  const Batch plain = random_batch({1, length}, config.vocab, 2), pad = padded(plain, 150, {length});
  typename TestType::Workspace work({1, length}, {}, everything), pad_work({1, 150}, {threads}, everything);
  TestType grad, pad_grad;
  const Batch other = random_batch({1, 150}, config.vocab, 9);
  model->forward(other, pad_work, key);  // memory that other tokens have used
  model->backward(other, pad_work, pad_grad);
  set_zero(pad_grad);

  const Loss loss = model->forward(plain, work, key), pad_loss = model->forward(pad, pad_work, key);
  model->backward(plain, work, grad);
  model->backward(pad, pad_work, pad_grad);
  CHECK(loss.cross_entropy == pad_loss.cross_entropy);
  CHECK(loss.total(everything) == pad_loss.total(everything));
  CHECK(pad_loss.targets == length);
  CHECK(first_difference(grad, pad_grad) == "");
}

// With the sum of targets a power of two, a sequence's share of it and 1 / targets are exact.
TEMPLATE_TEST_CASE(
    "a padded sequence of a batch has the outputs, losses and dx that it has alone bit for bit", "", TopTwo,
    Llama, PostNorm, Encoder) {
  constexpr Index D = config.dim, V = config.vocab, length = 70;
  const std::vector<Index> lengths{40, 0, 19, 5};
  const auto model = random_model<TestType>(3);
  const Batch batch = padded(random_batch({4, length}, config.vocab, 4), length, lengths);
  typename TestType::Workspace work({4, length}, {2});
  TestType grad, sum;
  const Loss loss = model->forward(batch, work);
  REQUIRE(loss.targets == 64);
  model->backward(batch, work, grad);
  for (Index b = 0; b < 4; ++b) {
    if (lengths[static_cast<std::size_t>(b)] == 0) continue;
    CAPTURE(b);
    const Batch one = alone(batch, b);
    const Index n = one.shape.length, first = b * length;
    typename TestType::Workspace one_work(one.shape);
    TestType one_grad;
    const Loss one_loss = model->forward(one, one_work);
    model->backward(one, one_work, one_grad, static_cast<double>(one_loss.targets) / 64);
    add(sum, one_grad);
    for (int layer = 0; layer <= config.layers; ++layer) {
      const auto l = static_cast<std::size_t>(layer);
      CHECK(same_bits(work.tape.trunk.stream[l][first], one_work.tape.trunk.stream[l][0], n * D));
    }
    CHECK(same_bits(work.tape.head.logits[first], one_work.tape.head.logits[0], n * V));
    CHECK(same_bits(work.tape.head.loss[first], one_work.tape.head.loss[0], n));
    CHECK(same_bits(work.scratch.trunk.d_stream[0][first], one_work.scratch.trunk.d_stream[0][0],
                    n * D));  // of the embeddings
  }
  // Sums over 64 tokens in another order.
  double worst = 0, largest = 0;
  for_each_weight(
      [&](const auto& a, const auto& b) {
        CHECK(a.touched == b.touched);
        for (Index i = 0; i < a.size(); ++i) {
          worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
          largest = std::max(largest, std::abs(static_cast<double>(a[i])));
        }
      },
      grad, sum);
  CHECK(worst < 1e-5 * largest);
}

TEST_CASE("padding is not routed and not counted by the metrics") {
  const auto model = random_model<TopTwo>(5);
  const Batch batch = padded(random_batch({3, 20}, config.vocab, 6), 20, {20, 3, 0});
  TopTwo::Workspace work({3, 20});
  model->forward(batch, work);
  RoutingStatistics<TopTwo> statistics{config.vocab};
  statistics.add(*model, work, batch.inputs);
  for (const auto& layer : statistics.layers) {
    CHECK(layer.routing.tokens == 23);
    Index pairs = 0, labelled = 0;
    for (const Index load : layer.routing.load) pairs += load;
    for (const Index count : layer.classes.count) labelled += count;
    CHECK(pairs == 46);
    CHECK(labelled == 46);
  }
}

TEST_CASE("a capacity is shared out among the tokens that are not padding") {
  auto model = random_model<TopTwo>(5);
  model->options = {.capacity_factor = 1, .min_capacity = 1};
  const Batch batch = padded(random_batch({2, 20}, config.vocab, 6), 20, {20, 5});
  TopTwo::Workspace work({2, 20});
  model->forward(batch, work);
  for_each_mixture(*model, work, [](int, const auto&, const auto& tape) {
    for (int e = 0; e < 5; ++e) CHECK(tape.plan.load(e) <= 25 * 2 / 5);
  });
}

TEST_CASE("lengths that do not fit the batch are rejected by name") {
  const auto model = random_model<TopTwo>(5);
  TopTwo::Workspace work({2, 20});
  Batch batch = random_batch({2, 20}, config.vocab, 6);
  const auto with = [&](std::vector<Index> lengths) {
    batch.lengths = std::move(lengths);
    return refusal([&] { model->forward(batch, work); });
  };
  CHECK(contains(with({20}), "1 lengths for 2 sequences"));
  CHECK(contains(with({20, 21}), "sequence 1 has length 21, expected 0 .. 20"));
  CHECK(contains(with({-1, 20}), "sequence 0 has length -1, expected 0 .. 20"));
  CHECK(with({0, 0}) == "");
}
