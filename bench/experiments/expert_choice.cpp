// Steps of expert choice and of top-2 token choice to reach a loss at equal compute (Zhou et al. 2022). An
// encoder with full attention predicts masked characters of the synthetic corpus; with both rules a token has
// two experts on average. Three seeds of weights, batches and masks.
#include <moegpt/moegpt.hpp>

#include <cstdio>
#include <memory>

#include "../../examples/options.hpp"

using namespace moegpt;

namespace {

constexpr int vocab = 128, mask_id = 127, steps = 2000,
              every = 50;  // the corpus is ASCII, and has no character 127
constexpr Config config{.vocab = vocab,
                        .context = 64,
                        .dim = 64,
                        .layers = 2,
                        .heads = 4,
                        .hidden = 128,
                        .mask = Mask::full,
                        .positions = Positions::rotary};

// One in seven characters is masked; only these are targets.
void hide(Batch& batch, Key key) {
  Rng rng(key);
  for (std::size_t n = 0; n < batch.inputs.size(); ++n) {
    const bool hidden = rng.below(7) == 0;
    batch.targets[n] = hidden ? batch.inputs[n] : -1;
    if (hidden) batch.inputs[n] = mask_id;
  }
}

// Validation losses every `every` steps.
template <class Recipe>
std::vector<double> train(std::span<const int> text, std::span<const int> val, Key seed, double balance) {
  using Model = GPT<config, Recipe>;
  const Shape shape{16, 64};
  auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, seed, Init::makemoe);
  Adam<Model> adam{{.learning_rate = 5e-3}};
  typename Model::Workspace work{shape, Exec{.threads = 2}, {.balance = balance}};
  const WarmupCosine schedule{.peak = 5e-3, .minimum = 5e-4, .warmup = 50, .steps = steps};
  Batch batch{shape};
  std::vector<double> losses;
  for (int step = 0; step <= steps; ++step) {
    if (step % every == 0) {
      double total = 0;
      for (int i = 0; i < 20; ++i) {  // the same masked windows for every rule and seed
        sample_batch(val, batch, Key{1}.with(Purpose::evaluation, i));
        hide(batch, Key{2}.with(Purpose::evaluation, i));
        total += model->forward(batch, work).cross_entropy / 20;
      }
      losses.push_back(total);
      std::fprintf(stderr, "\r%-60s step %d loss %.4f ", Recipe::text().c_str(), step, total);
    }
    sample_batch(text, batch, seed.with(Purpose::batch, step));
    hide(batch, seed.with(Purpose::sampling, step));
    model->forward(batch, work, seed.with(Purpose::step, step));
    set_zero(*grad, work.exec);
    model->backward(batch, work, *grad);
    const double norm = global_norm(*grad, work.exec);
    adam.options.learning_rate = schedule(step);
    adam.step(*model, *grad, work.exec, clip_scale(norm, 1));
  }
  std::fputc('\n', stderr);
  return losses;
}

int steps_to(const std::vector<double>& losses, double target) {
  for (std::size_t i = 0; i < losses.size(); ++i)
    if (losses[i] <= target) return static_cast<int>(i) * every;
  return -1;
}

void start() {
  const Corpus corpus = split_corpus(Dialects{}.generate(1000000, Key{7}).text, Tokenizer::bytes());
  std::printf(
      "masked loss at the end (nats per hidden character), and steps to the worse of the two final losses\n");
  std::printf("seed   top-2   expert choice      steps top-2   steps expert choice\n");
  for (const std::uint64_t seed : {1, 2, 3}) {
    const auto top = train<TopKRouter<8, 2>>(corpus.train, corpus.val, Key{seed}, 0.01);
    const auto choice = train<ExpertChoiceRouter<8, 2>>(corpus.train, corpus.val, Key{seed}, 0);
    const double target = std::max(top.back(), choice.back());
    std::printf("%4d  %.4f        %.4f          %5d                 %5d\n", static_cast<int>(seed),
                top.back(), choice.back(), steps_to(top, target), steps_to(choice, target));
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Does expert choice reach a loss in fewer steps than top-2?", "expert_choice");
  return options::run(app, argc, argv, start);
}
