// A training step of one model, or with -DSHAPES=2 of two that differ in every extent.
#include <moegpt/moegpt.hpp>
#include <moegpt/train/adam.hpp>

#include <cstdio>
#include <memory>

template <class Model>
double loss_after_a_step() {
  using namespace moegpt;
  const auto model = std::make_unique<Model>(), gradient = std::make_unique<Model>();
  init(*model, Key{7});
  Workspace<Model> work({.batch = 2, .length = 4}, {.threads = 2});
  const Batch batch{.shape = {2, 4}, .inputs = std::vector<int>(8, 1), .targets = std::vector<int>(8, 2)};
  Adam<Model> adam({.learning_rate = 1e-3});
  model->forward(batch, work);
  model->backward(batch, work, *gradient);
  adam.step(*model, *gradient, work.exec);
  return model->forward(batch, work).cross_entropy;
}

int main() {
  using namespace moegpt;
  constexpr Config first{.vocab = 65, .context = 32, .dim = 64, .layers = 2, .heads = 4};
  double loss = loss_after_a_step<GPT<first, TopKRouter<8, 2>>>();
#if SHAPES == 2
  constexpr Config second{.vocab = 81, .context = 48, .dim = 96, .layers = 3, .heads = 6};
  loss += loss_after_a_step<GPT<second, TopKRouter<6, 3>>>();
#endif
  std::printf("%g\n", loss);
}
