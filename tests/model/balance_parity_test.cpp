// Losses of routers and their gradients are those of other systems: tests/golden/make_balance.py wrote the
// numbers, and its comment says what they are. A router whose weights are the identity has its input as
// logits, so that with dy = 0 the mixture's dx is the losses' gradient by the logits.
#include <moegpt/io/safetensors.hpp>
#include <moegpt/moe/layer_mean.hpp>
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>

#include "../support/catch.hpp"

using namespace moegpt;

namespace {

constexpr double tolerance = 1e-10;  // the figure

std::vector<double> numbers(const std::string& name) {
  static const SafetensorsFile file = read_safetensors(MOEGPT_TESTS_DIR "/golden/balance.safetensors");
  INFO("tensor " << name);
  const auto found = file.header.tensors.find(name);
  REQUIRE(found != file.header.tensors.end());
  Index count = 1;
  for (const Index extent : found->second.shape) count *= extent;
  std::vector<double> numbers(static_cast<std::size_t>(count));
  for_each_number<double>(found->second.dtype, file.bytes(found->second).data(), count,
                          [&](Index i, double x) { numbers[static_cast<std::size_t>(i)] = x; });
  return numbers;
}
// The worst |found - expected|; a NaN is the worst.
template <class Found>
double worst(const std::vector<double>& expected, Found&& found) {
  double distance = 0;
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (const double off = std::abs(expected[i] - found(i)); !(off <= distance)) distance = off;
  return distance;
}

// The loss of three mixtures, and its gradient by their logits.
struct Layers {
  static constexpr Index layers = 3, tokens = 12, E = 5;
  using Layer = MoELayer<TopKRouter<E, 2>, Expert<E, 2, Activation::gelu, double>>;
  double loss = 0;
  std::vector<double> d_logits;

  Layers(const Objective& objective, const Index* lengths) {
    const RoutingContext routing{.objective = objective};
    const Pass pass{.shape = {2, 6}, .lengths = lengths, .routing = &routing};
    const std::vector<double> logits = numbers("logits");
    const auto layer = std::make_unique<Layer>();
    layer->router.logits.weight.eigen().setIdentity();
    std::array<Tokens<E, double>, layers> x;
    std::array<Layer::Tape, layers> tape;
    Layer::Scratch scratch;
    Tokens<E, double> y(tokens), dy(tokens), dx(tokens);
    LayerMean<double> mean;
    mean.start(E, pass);
    for (std::size_t l = 0; l < layers; ++l) {
      x[l].resize(tokens);
      std::copy_n(logits.begin() + static_cast<Index>(l) * tokens * E, tokens * E, x[l][0]);
      layer->forward(x[l], y, tape[l], scratch, pass);
      mean.add(tape[l]);
    }
    for (std::size_t l = 0; l < layers; ++l) {
      mean.divide(objective.balance_rule, tape[l]);
      loss += weighted(objective, tape[l]);
      Layer grad;
      layer->backward(x[l], tape[l], dy, dx, grad, scratch, pass);
      d_logits.insert(d_logits.end(), dx.memory().begin(), dx.memory().end());
    }
  }
};

void require_parity(const std::string& name, const Objective& objective) {
  const Index lengths[2] = {6, 4};
  for (const bool padded : {false, true}) {
    const Layers found(objective, padded ? lengths : nullptr);
    const std::string suffix = padded ? ".padded" : "";
    INFO(name << suffix);
    CHECK(found.loss == Approx(numbers(name + suffix)[0]).epsilon(tolerance));
    CHECK(worst(numbers("d." + name + suffix), [&](std::size_t i) { return found.d_logits[i]; }) <=
          tolerance);
  }
}

// One noisy router, whose input is the clean logits and the spreads.
template <NoisyTopK Options>
void require_load_parity(const std::string& name, const Objective& objective) {
  constexpr int E = 6;
  constexpr Index tokens = 9;
  using Layer = MoELayer<NoisyTopKRouter<E, 2, Options>, Expert<2 * E, 2, Activation::gelu, double>>;
  const RoutingContext routing{.objective = objective};
  const Pass pass{.shape = {1, tokens}, .key = Key{mix64(7)}, .routing = &routing};
  const std::vector<double> clean = numbers("clean"), spread = numbers("spread"), load = numbers("load");
  Layer layer, grad;
  Tokens<2 * E, double> x(tokens), y(tokens), dy(tokens), dx(tokens);
  for (int e = 0; e < E; ++e) {
    layer.router.logits.gate.weight.eigen()(e, e) = 1;
    layer.router.logits.noise.weight.eigen()(e, E + e) = 1;
  }
  const auto at = [](std::size_t i) {
    return std::pair{static_cast<Index>(i) / E, static_cast<Index>(i) % E};
  };
  for (std::size_t i = 0; i < clean.size(); ++i) {
    x[at(i).first][at(i).second] = clean[i];
    x[at(i).first][E + at(i).second] = spread[i];
  }
  typename Layer::Tape tape;
  typename Layer::Scratch scratch;
  layer.forward(x, y, tape, scratch, pass);
  layer.backward(x, tape, dy, dx, grad, scratch, pass);
  INFO(name);
  CHECK(worst(numbers("eps"),
              [&](std::size_t i) { return tape.router.layer.normal[at(i).first][at(i).second]; }) <= 1e-14);
  if (objective.load != 0)
    CHECK(worst(load, [&](std::size_t i) { return tape.router.load[i]; }) <= tolerance);
  CHECK(weighted(objective, tape) == Approx(numbers(name)[0]).epsilon(tolerance));
  CHECK(worst(numbers("dc." + name), [&](std::size_t i) { return dx[at(i).first][at(i).second]; }) <=
        tolerance);
  CHECK(worst(numbers("da." + name), [&](std::size_t i) { return dx[at(i).first][E + at(i).second]; }) <=
        tolerance);
}

}  // namespace

TEST_CASE(
    "the balance losses of Hugging Face, megablocks, GShard and DeepSeek are PyTorch's, gradients included") {
  require_parity("huggingface", {.balance = 1, .balance_rule = BalanceRule::huggingface});
  require_parity("megablocks", {.balance = 1, .balance_rule = BalanceRule::megablocks});
  require_parity("gshard", {.balance = 1, .balance_rule = BalanceRule::gshard});
  require_parity("deepseek", {.balance = 1, .balance_rule = BalanceRule::deepseek});
}

TEST_CASE("the variance loss and the count loss are PyTorch's, gradients included") {
  require_parity("variance", {.variance = 1});
  require_parity("count", {.count = 1});
}

TEST_CASE("the importance and load losses of 2017 are PyTorch's, gradients included, in both conventions") {
  constexpr NoisyTopK floor{.noise_floor = true}, detached{.noise_floor = true, .detached_threshold = true};
  require_load_parity<floor>("importance", {.importance = 1});
  require_load_parity<floor>("importance.unbiased", {.importance = 1, .variation = Variance::unbiased});
  require_load_parity<floor>("load_loss", {.load = 1});
  require_load_parity<floor>("load_loss.unbiased", {.load = 1, .variation = Variance::unbiased});
  require_load_parity<detached>("load_loss.detached", {.load = 1});
}
