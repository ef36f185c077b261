// Models whose one gate is constant on purpose. Each router is first met here inside AllowConstantGate<...>,
// where a compiler that looks for functions by their arguments completes the recipe inside as well.
#include <moegpt/model/gpt.hpp>
#include <moegpt/routing/cosine_router.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/routing/sigmoid_router.hpp>
#include <moegpt/routing/top_p_router.hpp>
#include <moegpt/train/adam.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 7, .context = 5, .dim = 6, .layers = 1, .heads = 2, .hidden = 5};

}  // namespace

TEMPLATE_TEST_CASE(
    "a model with a constant gate that is meant trains a step, and its task never moves the router", "",
    (AllowConstantGate<TopKRouter<8, 1, TopK{.gates = Gates::renormalised}>>),
    (AllowConstantGate<TopKRouterWith<8, 1, PNormGates<2>>>),
    (AllowConstantGate<SigmoidRouter<8, 1, Sigmoid{.normalise = true}>>),
    (AllowConstantGate<NoisyTopKRouter<8, 1>>),
    (AllowConstantGate<CosineRouter<8, 1, 4, Gates::renormalised>>),
    (AllowConstantGate<TopPRouter<8, 1, std::ratio<1, 2>, Gates::renormalised>>)) {
  using Model = GPT<config, TestType>;
  const auto model = random_model<Model>(1);
  const auto before = std::make_unique<Model>(*model);
  const Batch batch = random_batch({2, 5}, 7, 2);
  Workspace<Model> work(batch.shape);
  Adam<Model> adam;
  Model grad;
  const double loss = model->forward(batch, work).total(work.objective);
  model->backward(batch, work, grad);
  double of_router = 0, of_others = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind kind, const auto& g) {
        if (kind == Kind::buffer) return;
        for (const float x : g) (contains(path, ".router.") ? of_router : of_others) += std::abs(x);
      },
      grad);
  CHECK(of_others > 0.01);
  CHECK(of_router < 1e-6 * of_others);
  adam.step(*model, grad);
  CHECK(model->forward(batch, work).total(work.objective) < loss);
}
