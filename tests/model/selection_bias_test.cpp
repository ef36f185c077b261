#include <moegpt/model/selection_bias.hpp>
#include <moegpt/train/adam.hpp>

#include "support.hpp"

namespace {

// The K largest of logit + bias.
struct BiasedLogits {
  static constexpr bool biased = true;
  template <class T>
  static int select(const Candidate<T>& token, int* chosen) {
    T rank[8];
    for (int e = 0; e < token.experts; ++e) rank[e] = token.z[e] + token.bias[e];
    kernels::top_k(rank, token.experts, token.choices, chosen);
    return token.choices;
  }
};
template <int E, int K>
struct Biased : TokenChoiceRouter<E, K, Decisions<SoftmaxScores, BiasedLogits, ProbabilityGates>> {};

constexpr Config config{
    .vocab = 11, .context = 16, .dim = 8, .layers = 3, .heads = 2, .hidden = 5, .dense_first = 1};
using Model = GPT<config, Biased<4, 1>>;

const auto& bias_of(const Model& model, std::size_t mixture) {
  return model.trunk.blocks.second[mixture].mixture.router.selection_bias;
}
ExpertCounts<Model> counts_of(std::initializer_list<Index> counts) {
  ExpertCounts<Model> c;
  c.layer[1].resize(4);
  std::copy(counts.begin(), counts.end(), c.layer[1].begin());
  return c;
}

}  // namespace

TEST_CASE(
    "a bias falls where the load is above the mean, rises where it is below and stays where it is equal") {
  Model model;
  balance_selection(model, counts_of({9, 4, 2, 5}), 0.5, false);  // mean 5
  CHECK(bias_of(model, 0)[0] == -0.5f);
  CHECK(bias_of(model, 0)[1] == 0.5f);
  CHECK(bias_of(model, 0)[2] == 0.5f);
  CHECK(bias_of(model, 0)[3] == 0);
  for (int e = 0; e < 4; ++e) CHECK(bias_of(model, 1)[e] == 0);  // no counts of that layer
}

TEST_CASE("steps of biases are centred unless asked otherwise, so that biases do not drift") {
  Model model;
  balance_selection(model, counts_of({9, 4, 2, 5}), 0.5);  // signs - + + 0, their mean 1/4
  CHECK(bias_of(model, 0)[0] == -0.625f);
  CHECK(bias_of(model, 0)[1] == 0.375f);
  CHECK(bias_of(model, 0)[2] == 0.375f);
  CHECK(bias_of(model, 0)[3] == -0.125f);
}

TEST_CASE("balanced counts, and no counts at all, move no bias") {
  Model model;
  balance_selection(model, counts_of({3, 3, 3, 3}), 0.5);
  balance_selection(model, counts_of({0, 0, 0, 0}), 0.5);
  balance_selection(model, ExpertCounts<Model>{}, 0.5);
  for (int e = 0; e < 4; ++e) CHECK(bias_of(model, 0)[e] == 0);
}

TEST_CASE("counts of micro-batches add up to those of the whole batch, before capacity") {
  auto model = random_model<Model>(1);
  model->options.capacity_factor = 0.5;
  const Batch whole = random_batch({4, 8}, 11, 2);
  Model::Workspace work{{4, 8}};
  model->forward(whole, work);
  ExpertCounts<Model> all, parts;
  all.add(*model, work);
  for (const std::ptrdiff_t b : {0, 1}) {
    Batch half{{2, 8}, {}, {}};
    half.inputs.assign(whole.inputs.begin() + 16 * b, whole.inputs.begin() + 16 * (b + 1));
    half.targets.assign(whole.targets.begin() + 16 * b, whole.targets.begin() + 16 * (b + 1));
    model->forward(half, work);
    parts.add(*model, work);
  }
  // experts that drop tokens change what later layers see, so only the first mixture must agree
  CHECK(std::equal(all.layer[1].begin(), all.layer[1].end(), parts.layer[1].begin()));
  Index pairs = 0;
  for (const Index c : all.layer[1]) pairs += c;
  CHECK(pairs == 32);  // K = 1, nothing is missing though half is dropped
  CHECK(all.layer[0].size() == 0);
  all.clear();
  for (const Index c : all.layer[1]) CHECK(c == 0);
  model->forward(whole, work);
  all.add(*model, work);  // as if nothing had been counted before
  CHECK(std::equal(all.layer[1].begin(), all.layer[1].end(), parts.layer[1].begin()));
}

TEST_CASE("one micro-batch may be balanced from the workspace, with the same result") {
  auto a = random_model<Model>(1), b = random_model<Model>(1);
  Model::Workspace work{{2, 8}};
  a->forward(random_batch({2, 8}, 11, 2), work);
  ExpertCounts<Model> counts;
  counts.add(*a, work);
  balance_selection(*a, work, 0.01);
  balance_selection(*b, counts, 0.01);
  CHECK(first_difference(*a, *b) == "");
  CHECK(first_difference(*a, *random_model<Model>(1)) == "blocks.1.moe.router.selection_bias");
}

TEST_CASE("routers without a bias are left alone") {
  using Plain = GPT<config, TopKRouter<4, 2>>;
  auto model = random_model<Plain>(1);
  Plain::Workspace work{{2, 8}};
  model->forward(random_batch({2, 8}, 11, 2), work);
  balance_selection(*model, work, 0.1);
  CHECK(first_difference(*model, *random_model<Plain>(1)) == "");
}

TEST_CASE("only a buffer called selection_bias is one: another name that ends so is left alone") {
  struct Router {
    Weight<float, 2> selection_bias, no_selection_bias;
    static constexpr auto fields() {
      return Fields{Field{"selection_bias", &Router::selection_bias, Kind::buffer},
                    Field{"no_selection_bias", &Router::no_selection_bias, Kind::buffer}};
    }
  };
  Router router;
  Buffer<Index> count(2);
  count[0] = 1, count[1] = 3;
  detail::balance_selection_of(router, count, 0.5, true);
  CHECK(router.selection_bias[0] == 0.5f);
  CHECK(router.no_selection_bias[0] == 0);
}

TEST_CASE(
    "a biased selection balances a router that sends everything to one expert, without touching its gates") {
  auto model = random_model<Model>(3, 0.2);
  for (auto& block : model->trunk.blocks.second)
    for_each_weight(
        [](auto& w) {
          for (auto& v : w) v = 0;
        },
        block.mixture.router);
  const Batch batch = random_batch({4, 16}, 11, 4);
  Model::Workspace work{{4, 16}};
  const auto worst = [&] {  // MaxVio of the first mixture
    model->forward(batch, work);
    const auto& wanted = work.tape.trunk.blocks.second[0].mixture.plan.wanted;
    return static_cast<double>(*std::max_element(wanted.begin(), wanted.end())) / 16 - 1;
  };
  Rng rng(5);
  for (auto& block : model->trunk.blocks.second)
    for (auto& w : block.mixture.router.logits.weight) w = 0.02f * static_cast<float>(rng.normal());
  model->trunk.blocks.second[0].mixture.router.selection_bias[2] = 1;  // tilted
  REQUIRE(worst() == 3);
  for (int step = 0; step < 400; ++step) {
    model->forward(batch, work);
    balance_selection(*model, work, 0.005);
  }
  CHECK(worst() <= 0.5);
  for (const auto& tape : work.tape.trunk.blocks.second)
    for (Index s = 0; s < tape.mixture.plan.slot_count(); ++s) {
      const Index n = tape.mixture.plan.token[s];
      const int e = tape.mixture.router.chosen[n];
      REQUIRE(tape.mixture.plan.gate[s] == tape.mixture.router.score[n][e]);
    }
}

TEST_CASE("the optimizer neither moves nor decays a selection bias") {
  auto model = random_model<Model>(1);
  const auto before = bias_of(*model, 0);
  Model grad;
  const Batch batch = random_batch({2, 8}, 11, 2);
  Model::Workspace work{{2, 8}};
  Adam<Model> adam({.learning_rate = 0.1, .weight_decay = 0.5});
  model->forward(batch, work);
  model->backward(batch, work, grad);
  adam.step(*model, grad);
  CHECK(same_bits(before.data(), bias_of(*model, 0).data(), 4));
}

TEST_CASE("counts and biases of a workspace without a forward that returned are rejected") {
  Model model;
  Workspace<Model> work({2, 6});
  ExpertCounts<Model> counts;
  CHECK(contains(refusal([&] { counts.add(model, work); }), "no forward of this workspace has returned"));
  CHECK(contains(refusal([&] { balance_selection(model, work, 0.1); }),
                 "no forward of this workspace has returned"));
}
