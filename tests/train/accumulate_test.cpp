#include <moegpt/model/selection_bias.hpp>
#include <moegpt/routing/sigmoid_router.hpp>
#include <moegpt/testing/differences.hpp>
#include <moegpt/testing/tensors.hpp>
#include <moegpt/train/accumulate.hpp>

#include "../model/support.hpp"
#include "../support/kernels.hpp"

namespace {

constexpr Config config{
    .vocab = 11, .context = 6, .dim = 8, .layers = 3, .heads = 2, .hidden = 6, .dense_first = 1};
using Model = GPT<config, TopKRouter<4, 2>, double>;
using Noisy = GPT<config, NoisyTopKRouter<4, 2>, double>;

const BalanceRule every_rule[] = {BalanceRule::switch_transformer, BalanceRule::gshard,
                                  BalanceRule::huggingface,        BalanceRule::megablocks,
                                  BalanceRule::deepseek,           BalanceRule::flaxformer};
constexpr BalanceLoads every_load[] = {BalanceLoads::micro_batch, BalanceLoads::so_far,
                                       BalanceLoads::whole_step};

// Four sequences of six tokens; one has padding only, one no targets.
Batch whole_batch() {
  Batch batch = random_batch({5, 6}, config.vocab, 2);
  batch.lengths = {6, 2, 0, 5, 6};
  for (int n : {0, 3, 4, 18, 19, 20, 21, 22}) batch.targets[static_cast<std::size_t>(n)] = -1;
  return batch;
}
// Its sequences, 2, 1, 1 and 1 of them; without padding: all of their tokens.
std::vector<Batch> micro_batches(const Batch& all) {
  std::vector<Batch> parts;
  for (Index first = 0, count = 2; first < all.shape.batch; first += count, count = 1) {
    const auto from = first * all.shape.length, to = (first + count) * all.shape.length;
    Batch part{{count, all.shape.length},
               {all.inputs.begin() + from, all.inputs.begin() + to},
               {all.targets.begin() + from, all.targets.begin() + to}};
    if (!all.lengths.empty())
      part.lengths = {all.lengths.begin() + first, all.lengths.begin() + first + count};
    parts.push_back(std::move(part));
  }
  return parts;
}

template <class M>
double distance(const M& a, const M& b) {
  double worst = 0;
  for_each_weight(
      [&](const auto& x, const auto& y) {
        for (Index i = 0; i < x.size(); ++i)
          if (const double off = std::abs(x[i] - y[i]); !(off <= worst)) worst = off;
      },
      a, b);
  return worst;
}
double distance(const Loss& a, const Loss& b) {
  double worst = std::abs(a.cross_entropy - b.cross_entropy);
  for (const auto& entry : loss_table<double>)
    worst = std::max(worst, std::abs(a.*entry.value - b.*entry.value));
  return worst;
}

}  // namespace

TEST_CASE("without auxiliary losses micro-batches are one batch, whatever targets and padding they have") {
  const auto model = random_model<Model>(1);
  const Batch batch = whole_batch();
  Model::Workspace work({5, 6});
  Model whole, sum;
  const Loss expected = model->forward(batch, work);
  model->backward(batch, work, whole);
  for (const BalanceLoads loads : every_load) {
    set_zero(sum);
    const Loss found = Accumulator<Model>(loads).step(*model, micro_batches(batch), work, sum);
    CHECK(found.targets == expected.targets);
    CHECK(std::abs(found.cross_entropy - expected.cross_entropy) < 1e-14);
    CHECK(distance(whole, sum) < 1e-14);
  }
}

TEST_CASE(
    "with the loads of the whole step micro-batches have the balance loss of one batch, by every rule") {
  const auto model = random_model<Model>(1);
  const Batch batch = whole_batch();
  for (const BalanceRule& rule : every_rule) {
    Model::Workspace work({5, 6}, {}, {.balance = 0.7, .balance_rule = rule, .z = 0.1});
    Model whole, sum, so_far;
    const Loss expected = model->forward(batch, work);
    model->backward(batch, work, whole);
    const Loss found =
        Accumulator<Model>(BalanceLoads::whole_step).step(*model, micro_batches(batch), work, sum);
    Accumulator<Model>().step(*model, micro_batches(batch), work, so_far);
    CAPTURE(&rule - every_rule);
    CHECK(std::abs(found.balance - expected.balance) < 1e-14);
    CHECK(std::abs(found.z - expected.z) < 1e-14);
    CHECK(distance(whole, sum) < 1e-14);
    CHECK((distance(whole, so_far) < 1e-14) == (rule.group == Group::sequence));  // these have no other loads
  }
}

TEST_CASE("a step does not depend on earlier steps") {
  const auto model = random_model<Model>(1);
  Model::Workspace work({5, 6}, {}, {.balance = 0.7, .balance_rule = BalanceRule::huggingface});
  for (const BalanceLoads loads : every_load) {
    Model once, again, unused;
    Accumulator<Model> accumulator(loads);
    accumulator.step(*model, micro_batches(whole_batch()), work, once);
    accumulator.step(*model, micro_batches(random_batch({3, 6}, config.vocab, 7)), work, unused);
    accumulator.step(*model, micro_batches(whole_batch()), work, again);
    CHECK(first_difference(once, again) == "");
  }
}

TEST_CASE("the loads so far are those of the micro-batch and of those before it") {
  const auto model = random_model<Model>(1);
  Model::Workspace work({5, 6}, {}, {.balance = 0.7});
  Model grad;
  const auto parts = micro_batches(whole_batch());
  double expected = 0, pairs = 0;
  double count[3][4] = {};
  const double tokens[] = {8 / 19.0, 0, 5 / 19.0, 6 / 19.0};
  Accumulator<Model> accumulator;
  const Loss loss = accumulator.step(*model, parts, work, grad, {}, [&](Index i, const Loss& one) {
    double balance = 0;
    pairs = 0;
    for_each_mixture(*model, work, [&](int l, const auto&, const auto& tape) {
      double sum = 0;
      for (int e = 0; e < 4; ++e) sum += count[l][e] += static_cast<double>(tape.plan.wanted[e]);
      for (int e = 0; e < 4; ++e) balance += 4 * count[l][e] / sum * tape.mean_score[e];
      pairs = sum;
    });
    CHECK(std::abs(one.balance - balance) < 1e-14);
    expected += tokens[i] * balance;
  });
  CHECK(pairs == 2 * 19);
  CHECK(std::abs(loss.balance - expected) < 1e-14);
}

TEST_CASE("with loads of each micro-batch the losses are the means of those of the micro-batches") {
  const auto model = random_model<Model>(1);
  Batch batch = whole_batch();
  batch.lengths.clear();
  batch.targets = random_batch({5, 6}, config.vocab, 3).targets;
  const Objective all{
      .balance = 0.3, .z = 0.02, .importance = 0.1, .load = 0.1, .variance = 0.2, .count = 0.01};
  Model::Workspace work({5, 6}, {}, all);
  Model expected, sum;
  Loss mean;
  for (const Batch& part : micro_batches(batch)) {
    const double weight = static_cast<double>(part.shape.batch) / 5;
    const Loss one = model->forward(part, work);
    model->backward(part, work, expected, weight);
    add_losses(one, mean, weight);
    mean.cross_entropy += weight * one.cross_entropy;
  }
  const Loss found =
      Accumulator<Model>(BalanceLoads::micro_batch).step(*model, micro_batches(batch), work, sum);
  CHECK(distance(found, mean) < 1e-13);
  CHECK(distance(expected, sum) < 1e-14);
}

TEST_CASE("a step of one micro-batch has the bits of forward and backward") {
  const auto model = random_model<Noisy>(1);
  const Batch batch[] = {whole_batch()};
  const Objective all{.dropout = 0.2,
                      .balance = 0.3,
                      .z = 0.02,
                      .importance = 0.1,
                      .load = 0.1,
                      .variance = 0.2,
                      .count = 0.01};
  Noisy::Workspace work({5, 6}, {}, all);
  Noisy expected;
  const Loss plain = model->forward(batch[0], work, Key{3});
  model->backward(batch[0], work, expected);
  for (const BalanceLoads loads : every_load) {
    Noisy grad;
    const Loss found = Accumulator<Noisy>(loads).step(*model, batch, work, grad, Key{3});
    CHECK(distance(found, plain) == 0);
    CHECK(first_difference(grad, expected) == "");
  }
}

TEST_CASE("the gradient of a step agrees with differences of its loss, with every choice of loads") {
  const auto parts = micro_batches(whole_batch());
  for (const BalanceLoads loads : every_load)
    for (const BalanceRule& rule : {BalanceRule::switch_transformer, BalanceRule::huggingface}) {
      const Objective all{.balance = 0.5, .balance_rule = rule, .z = 0.2, .importance = 0.3};
      const GradcheckReport report =
          testing::until_differentiable({.per_tensor = 6}, [&](GradcheckReport& found, Rng& rng) {
            Model model, grad, unused;
            testing::draw_weights(model, rng, 0.5);
            Model::Workspace work({5, 6}, {}, all);
            Accumulator<Model> accumulator(loads);
            accumulator.step(model, parts, work, grad);
            std::vector<testing::TensorUnderTest> tensors;
            testing::add_tensors(tensors, model, grad);
            return testing::compare([&] { return accumulator.step(model, parts, work, unused).total(all); },
                                    tensors, {.per_tensor = 6}, found);
          });
      CHECK(report.message == "");
    }
}

TEST_CASE("each micro-batch has a key of its own, the same in both forwards of a whole step") {
  const auto model = random_model<Noisy>(1);
  Batch batch = random_batch({1, 6}, config.vocab, 2);
  const std::vector<Batch> twice{batch, batch};
  Noisy::Workspace work({1, 6}, {}, {.balance = 0.1});
  Noisy grad;
  std::vector<Buffer<double>> noisy;
  Index loads = 0;
  Accumulator<Noisy> accumulator(BalanceLoads::whole_step);
  const auto look = [&](Index, const Loss&) {
    for_each_mixture(*model, work, [&](int layer, const auto&, const auto& tape) {
      if (layer > 1) return;
      noisy.push_back(tape.mean_score);
      for (int e = 0; e < 4; ++e) loads += tape.plan.wanted[e] <= tape.load_count[e];
    });
  };
  accumulator.step(*model, twice, work, grad, Key{3}, look);
  REQUIRE(noisy.size() == 2);
  CHECK(noisy[0][0] != noisy[1][0]);
  CHECK(loads == 8);
}

TEST_CASE("counts of experts may be added after each micro-batch") {
  const auto model = random_model<Model>(1);
  Model::Workspace work({5, 6});
  Model grad;
  const Batch batch = whole_batch();
  ExpertCounts<Model> whole, sum;
  model->forward(batch, work);
  whole.add(*model, work);
  Accumulator<Model> accumulator;
  accumulator.step(*model, micro_batches(batch), work, grad, {},
                   [&](Index, const Loss&) { sum.add(*model, work); });
  for (std::size_t l : {1, 2})
    for (Index e = 0; e < 4; ++e) CHECK(sum.layer[l][e] == whole.layer[l][e]);
}

TEST_CASE("a dense model accumulates, too") {
  using Dense2 = GPT<config, Dense, double>;
  const auto model = random_model<Dense2>(1);
  Dense2::Workspace work({5, 6});
  Dense2 whole, sum;
  const Batch batch = whole_batch();
  model->forward(batch, work);
  model->backward(batch, work, whole);
  Accumulator<Dense2>().step(*model, micro_batches(batch), work, sum);
  CHECK(distance(whole, sum) < 1e-14);
}

TEST_CASE(
    "a step without micro-batches and one with wrong targets are rejected before the gradient changes") {
  const auto model = random_model<Model>(1);
  Model::Workspace work({5, 6});
  Model grad;
  Accumulator<Model> accumulator;
  CHECK(contains(refusal([&] { accumulator.step(*model, {}, work, grad); }), "at least one micro-batch"));
  auto parts = micro_batches(whole_batch());
  parts.back().targets.pop_back();
  CHECK(contains(refusal([&] { accumulator.step(*model, parts, work, grad); }), "has 5 targets for 6"));
  parts = micro_batches(whole_batch());
  parts.back().lengths = {7};
  CHECK(contains(refusal([&] { accumulator.step(*model, parts, work, grad); }), "has length 7"));
  CHECK(distance(grad, Model()) == 0);
}

TEST_CASE("loads of a step with another number of experts or layers are rejected") {
  const auto model = random_model<Model>(1);
  const Batch batch = random_batch({1, 6}, config.vocab, 2);
  const Index count[11] = {};  // 12 are expected: three layers of four experts
  Model::Workspace work({1, 6}, {}, {.balance = 0.1, .step_loads = {.count = count}});
  CHECK(contains(refusal([&] { model->forward(batch, work); }), "step_loads of 11 numbers"));
}
