// Objective::layer_weights: losses of routers that differ by layer, in their values and in their gradients.
#include <moegpt/testing/gradcheck.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 7, .context = 5, .dim = 6, .layers = 3, .heads = 2, .hidden = 5};
using Model = GPT<config, TopKRouter<4, 2>, double>;
using Noisy = GPT<config, NoisyTopKRouter<4, 2>, double>;
const std::vector<double> weights{0.5, 0, 2};

const BalanceRule mean_of_sequences{.group = Group::sequence, .layers = BalanceRule::Layers::mean};

// Values of each layer before weights, of an objective that sums over layers.
std::vector<RouterLosses<double>> losses_of_layers(const Model& model, const Batch& batch) {
  Model::Workspace work(batch.shape);
  model.forward(batch, work);
  std::vector<RouterLosses<double>> all;
  for_each_mixture(model, work, [&](int, const auto&, const auto& tape) { all.push_back(tape); });
  return all;
}

}  // namespace

TEST_CASE("gradients of losses with a weight for each layer are their differences, under a sum and a mean") {
  GradcheckOptions options{.pass = {.shape = {2, 5}, .key = Key{42}}, .per_tensor = 16};
  for (const BalanceRule& rule : {BalanceRule{}, BalanceRule::megablocks, mean_of_sequences}) {
    options.routing.objective = {.balance = 0.5,
                                 .balance_rule = rule,
                                 .z = 0.3,
                                 .importance = 0.7,
                                 .load = 0.6,
                                 .variance = 5,
                                 .count = 0.05,
                                 .layer_weights = weights};
    for (options.seed = 1; options.seed <= 3; ++options.seed) {
      const GradcheckReport report = gradcheck<Noisy>(options);
      INFO(report.message);
      CHECK(report);
    }
  }
}

TEST_CASE("gradcheck of a mixture takes the weight of the layer that its pass says") {
  GradcheckOptions options;
  options.pass.layer = 2;
  options.routing.objective = {.balance = 0.5, .z = 0.3, .layer_weights = weights};
  CHECK(gradcheck<MoELayer<TopKRouter<4, 2>, Expert<6, 5, Activation::gelu, double>>>(options));
}

TEST_CASE("losses of a model are sums over layers of weight times loss, and a mean is divided by layers") {
  const auto model = random_model<Model>(3);
  const Batch batch = random_batch({2, 5}, 7, 4);
  const auto each = losses_of_layers(*model, batch);
  double z = 0, balance = 0;
  for (std::size_t l = 0; l < 3; ++l) z += weights[l] * each[l].z, balance += weights[l] * each[l].balance;

  Objective o{.balance = 0.5, .z = 0.3, .layer_weights = weights};
  Model::Workspace work(batch.shape, {}, o);
  Loss loss = model->forward(batch, work);
  CHECK(loss.z == Approx(z).epsilon(1e-14));
  CHECK(loss.balance == Approx(balance).epsilon(1e-14));
  CHECK(loss.total(o) == Approx(loss.cross_entropy + 0.5 * balance + 0.3 * z).epsilon(1e-14));

  work.objective.balance_rule = BalanceRule::megablocks;
  loss = model->forward(batch, work);
  CHECK(loss.balance == Approx(balance / 3).epsilon(1e-14));
}

TEST_CASE("weights of one change no bit, and a weight of zero leaves a layer the gradient of no loss") {
  const auto model = random_model<Model>(3);
  const Batch batch = random_batch({2, 5}, 7, 4);
  const auto gradient = [&](const Objective& o) {
    auto grad = std::make_unique<Model>();
    Model::Workspace work(batch.shape, {}, o);
    model->forward(batch, work);
    model->backward(batch, work, *grad);
    return grad;
  };
  const std::vector<double> ones(3, 1.0), not_the_last{1, 1, 0};
  const auto plain = gradient({.balance = 0.5, .z = 0.3});
  CHECK(first_difference(*gradient({.balance = 0.5, .z = 0.3, .layer_weights = ones}), *plain).empty());
  const auto without = gradient({});
  const auto last = gradient({.balance = 0.5, .z = 0.3, .layer_weights = not_the_last});
  CHECK(first_difference(last->trunk.blocks.second[2], without->trunk.blocks.second[2])
            .empty());  // no loss is after it
  CHECK_FALSE(first_difference(plain->trunk.blocks.second[2], without->trunk.blocks.second[2]).empty());
  CHECK_FALSE(first_difference(last->trunk.blocks.second[1], without->trunk.blocks.second[1]).empty());
}

TEST_CASE("layer weights of another number of layers, or for one loss of all layers, are refused") {
  const auto model = random_model<Model>(3);
  const Batch batch = random_batch({2, 5}, 7, 4);
  const std::vector<double> two(2, 1.0);
  const Objective short_of_one{.layer_weights = two};
  const std::string by_workspace = refusal([&] { Model::Workspace work(batch.shape, {}, short_of_one); });
  CHECK(contains(by_workspace, "layer_weights of 2 layers, but the model has 3"));
  Model::Workspace work(batch.shape);
  work.objective.layer_weights = two;
  const auto forward = [&] { model->forward(batch, work); };
  CHECK(contains(refusal(forward), "layer_weights of 2 layers, but the model has 3"));
  work.objective = {.balance_rule = BalanceRule::huggingface, .layer_weights = weights};
  CHECK(contains(refusal(forward), "one loss of all layers together"));
}
