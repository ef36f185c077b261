#include <moegpt/model/reshape.hpp>
#include <moegpt/routing/sigmoid_router.hpp>
#include <moegpt/train/adam.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 11, .context = 6, .dim = 8, .layers = 2, .heads = 2, .hidden = 12};
template <class Recipe>
using Model = GPT<config, Recipe>;
using Plain = Model<Dense>;
template <int E>
using TopTwo = Model<TopKRouter<E, 2>>;
template <int E>
using Biased = Model<SigmoidRouter<E, 2>>;
const Shape shape{2, 6};

template <class M>
double loss_of(const M& model, const bool* allowed = nullptr) {
  typename M::Workspace work(shape);
  work.allowed = allowed;
  return model.forward(random_batch(shape, config.vocab, 9), work).cross_entropy;
}
template <class M>
std::unique_ptr<M> fresh() {
  auto model = std::make_unique<M>();
  init(*model, Key{1});
  return model;
}
// A step after which the moments are not zero.
template <class M>
void step(M& model, Adam<M>& adam) {
  typename M::Workspace work(shape);
  const auto grad = std::make_unique<M>();
  const Batch batch = random_batch(shape, config.vocab, 3);
  model.forward(batch, work);
  model.backward(batch, work, *grad);
  adam.step(model, *grad);
}

}  // namespace

TEST_CASE("an upcycled model is the dense function, where the gates of a token sum to 1") {
  auto dense = random_model<Plain>(1);
  dense->options.norm_epsilon = 0.01;
  const auto mixture = random_model<TopTwo<4>>(2);
  const CopyReport report = upcycle(*dense, *mixture);
  CHECK(loss_of(*mixture) == Approx(loss_of(*dense)).epsilon(1e-6));
  CHECK(report.left ==
        std::vector<std::string>{"blocks.0.moe.router.gate.weight", "blocks.1.moe.router.gate.weight"});
  CHECK(report.unused.empty());
  CHECK(report.copied.size() ==
        5 + 2 * (2 * 2 + 5 + 4 * 4));  // ends, and norms, attention, experts of a block

  // Two gates of exactly 1/2: the sum has no rounding.
  for (auto& block : mixture->trunk.blocks.second) set_zero(block.mixture.router);
  CHECK(loss_of(*mixture) == loss_of(*dense));
}

TEST_CASE("gates that do not sum to 1 change the function of an upcycled model") {
  const auto dense = random_model<Plain>(1);
  const auto mixture = random_model<Model<TopKRouter<4, 1>>>(2);  // Switch
  upcycle(*dense, *mixture);
  CHECK(std::abs(loss_of(*mixture) - loss_of(*dense)) > 1e-3);
}

TEST_CASE("a model grows behind allowed experts with the same bits") {
  const auto small = random_model<TopTwo<4>>(1);
  const auto large = random_model<TopTwo<6>>(2), before = std::make_unique<TopTwo<6>>(*large);
  const AllowedExperts<TopKRouter<6, 2>> old{0, 1, 2, 3};
  const CopyReport report = grow_experts(*small, *large, {.allowed = old});
  CHECK(loss_of(*large, old) == loss_of(*small));
  CHECK(loss_of(*large) != loss_of(*small));
  CHECK(report.left.size() == 2 * 2 * 4);  // layers, new experts, weights of one
  const auto& expert = large->trunk.blocks.second[1].mixture.experts[5];
  CHECK(expert.up.weight[3] == before->trunk.blocks.second[1].mixture.experts[5].up.weight[3]);
}

TEST_CASE("a model grows behind selection biases with the same bits, also with unequal ones") {
  const auto small = random_model<Biased<4>>(1);
  const auto large = random_model<Biased<6>>(2);
  grow_experts(*small, *large, {.copies = {1, 0}});
  CHECK(loss_of(*large) == loss_of(*small));
  const auto& of = large->trunk.blocks.second[0].mixture;
  const auto& bias = of.router.selection_bias;
  CHECK(bias[4] == Approx(*std::min_element(bias.begin(), bias.begin() + 4) - 2));
  CHECK(bias[5] == bias[4]);
  CHECK(of.experts[4].up.weight[7] == small->trunk.blocks.second[0].mixture.experts[1].up.weight[7]);
  for (int e : {4, 5}) large->trunk.blocks.second[0].mixture.router.selection_bias[e] = 3;  // in reach
  CHECK(loss_of(*large) != loss_of(*small));
}

TEST_CASE("growth that would not keep new experts out of reach is rejected") {
  const auto small = random_model<TopTwo<4>>(1);
  const auto large = random_model<TopTwo<6>>(2), before = std::make_unique<TopTwo<6>>(*large);
  const auto message = [&](const Growth& growth) {
    return refusal([&] { grow_experts(*small, *large, growth); });
  };
  CHECK(contains(message({}), "the router of layer 0 has no selection bias"));
  const AllowedExperts<TopKRouter<6, 2>> new_too{0, 1, 2, 3, 4}, too_few{0, 1, 2};
  CHECK(contains(message({.allowed = new_too}), "expert 4 is new, but is allowed"));
  CHECK(contains(message({.allowed = too_few}), "expert 3 was there, but is not allowed"));
  CHECK(contains(message({.bias_gap = 0.5}), "bias_gap is 0.5"));
  const AllowedExperts<TopKRouter<6, 2>> old{0, 1, 2, 3};
  CHECK(contains(message({.allowed = old, .copies = {1}}), "1 experts to copy for 2 new experts"));
  CHECK(first_difference(*large, *before) == "");

  constexpr TopK softmax{.selection_bias = true};
  const auto scores = fresh<Model<TopKRouter<4, 2, softmax>>>();
  const auto more = fresh<Model<TopKRouter<6, 2, softmax>>>();
  CHECK(contains(refusal([&] { grow_experts(*scores, *more); }), "softmax scores"));
}

TEST_CASE("experts without tokens can be pruned with the same bits, and put back") {
  const auto large = random_model<TopTwo<6>>(1);
  const AllowedExperts<TopKRouter<6, 2>> some{0, 2, 3, 5};
  const double expected = loss_of(*large, some);
  const auto small = random_model<TopTwo<4>>(2);
  const CopyReport report = prune_experts(*large, *small, {{0, 2, 3, 5}});
  CHECK(loss_of(*small) == expected);
  CHECK(report.left.empty());
  CHECK(report.unused.size() == 2 * 2 * 4);
  const auto restored = random_model<TopTwo<6>>(3);
  const AllowedExperts<TopKRouter<6, 2>> old{0, 1, 2, 3};
  grow_experts(*small, *restored, {.allowed = old});
  CHECK(loss_of(*restored, old) == expected);
}

TEST_CASE("softmax scores as gates are those of fewer experts up to the order of their sum") {
  using Switch6 = Model<TopKRouter<6, 1>>;
  const auto large = random_model<Switch6>(1);
  const AllowedExperts<TopKRouter<6, 1>> some{1, 2, 4, 5};
  const auto small = random_model<Model<TopKRouter<4, 1>>>(2);
  prune_experts(*large, *small, {{1, 2, 4, 5}, {1, 2, 4, 5}});
  CHECK(loss_of(*small) == Approx(loss_of(*large, some)).epsilon(1e-6));
}

TEST_CASE("equal experts merge to themselves, and weights of a cluster are normalised") {
  const auto dense = random_model<Plain>(1);
  const auto large = random_model<TopTwo<4>>(2);
  upcycle(*dense, *large);
  const auto small = random_model<TopTwo<2>>(3);  // all experts at work, so that any router will do
  merge_experts(*large, *small, {{0, 1, 1, 0}}, {{3, 0, 0, 1}});
  CHECK(loss_of(*small) == Approx(loss_of(*dense)).epsilon(1e-6));
  const auto& gate = large->trunk.blocks.second[1].mixture.router.logits.weight;
  const auto& merged = small->trunk.blocks.second[1].mixture.router.logits.weight;
  CHECK(merged[2] == Approx(0.75 * gate[2] + 0.25 * gate[24 + 2]));
  CHECK(merged[8 + 2] == Approx(0.5 * gate[8 + 2] + 0.5 * gate[16 + 2]));  // without load
}

TEST_CASE("clusters that are empty or of other sizes are rejected") {
  const auto large = fresh<TopTwo<4>>();
  const auto small = fresh<TopTwo<2>>();
  const auto message = [&](const std::vector<std::vector<int>>& cluster,
                           const std::vector<std::vector<double>>& weight) {
    return refusal([&] { merge_experts(*large, *small, cluster, weight); });
  };
  CHECK(contains(message({{0, 1, 1, 0}}, {}), "clusters of 1 layers and weights of 0"));
  CHECK(contains(message({{0, 1, 1, 0}}, {{1, 1, 1}}), "clusters of 4 experts and weights of 3"));
  CHECK(contains(message({{0, 2, 2, 0}}, {{1, 1, 1, 1}}), "no expert of list 0 is in cluster 1"));
  CHECK(contains(message({{0, 1, 1, -1}}, {{1, 1, 1, 1}}), "expert 3 of list 0 is in cluster -1"));
  CHECK(contains(message({{0, 1, 1, 0}}, {{1, 1, 1, -1}}), "the weight of expert 3 of list 0 is -1"));
  CHECK(contains(message({{0, 0, 0, 0}}, {{1, 1, 1, 1}}), "the map has 1 experts for layer 0, expected 2"));
}

TEST_CASE("a model without experts, and an FFN of another width, are not upcycled") {
  const auto dense = fresh<Plain>();
  Plain other;
  CHECK(contains(refusal([&] { upcycle(*dense, other); }), "the destination has no experts"));
  constexpr Config narrow = [] {
    Config c = config;
    c.hidden = 10;
    return c;
  }();
  GPT<narrow, TopKRouter<4, 2>> mixture;
  CHECK(contains(refusal([&] { upcycle(*dense, mixture); }),
                 "blocks.0.ffn.up.weight has shape [12, 8], expected [10, 8] for "
                 "blocks.0.moe.experts.0.up.weight"));
}

TEST_CASE("moments move with the experts, by the functions that move weights") {
  const auto large = random_model<TopTwo<6>>(1);
  Adam<TopTwo<6>> adam;
  step(*large, adam);
  Adam<TopTwo<4>> fewer;
  prune_experts(adam, fewer, {{0, 2, 3, 5}});
  const auto moment = [](const auto& of, int e) -> const auto& {
    return of.second_moment().trunk.blocks.second[1].mixture.experts[static_cast<std::size_t>(e)].up.weight;
  };
  CHECK(same_bits(moment(fewer, 1).data(), moment(adam, 2).data(), moment(adam, 2).size()));
  CHECK(fewer.options.learning_rate == adam.options.learning_rate);
}
