// Collapse of experts by balancing method. Trains a small model (8 experts, one per token) with each method
// on the synthetic text in four dialects. Measures on 16k tokens of held-out text: MaxVio of the worst layer,
// the number of dead experts, the mutual information of expert and dialect, and the loss.
//     collapse [--steps 1000] [--seeds 1] [--lr 0.01] [--rows part of their names]
#include <moegpt/moegpt.hpp>

#include <cstdio>

#include "../../examples/options.hpp"

using namespace moegpt;

namespace {

constexpr int E = 8;
constexpr Config config{.vocab = 64, .context = 64, .dim = 64, .layers = 4, .heads = 4, .hidden = 128};

struct Setup {
  Dialects::Text text;
  Corpus corpus;
  long steps, seeds;
  double rate;
  Exec exec;
};

struct Result {
  double violation = 0, information = 0, loss = 0;
  int dead = 0;
};

template <class Router>
Result train(const Setup& setup, const Objective& objective, double bias_rate, Key seed) {
  using Model = GPT<config, Router>;
  Model model, grad;
  init(model, seed, Init::makemoe);
  Adam<Model> adam{{.weight_decay = 0.1, .decay_of = DecayOf::matrices}};
  const WarmupCosine schedule{
      .peak = setup.rate, .minimum = setup.rate / 10, .warmup = 50, .steps = setup.steps};
  typename Model::Workspace work{{.batch = 16, .length = 64}, setup.exec, objective};
  Batch batch{work.shape};
  for (long step = 0; step < setup.steps; ++step) {
    const auto number = static_cast<std::uint64_t>(step);
    sample_batch(setup.corpus.train, batch, seed.with(Purpose::batch, number));
    model.forward(batch, work, seed.with(Purpose::step, number));
    set_zero(grad, setup.exec);
    model.backward(batch, work, grad);
    adam.options.learning_rate = schedule(step);
    adam.step(model, grad, setup.exec, clip_scale(global_norm(grad, setup.exec), 1));
    if (bias_rate > 0) balance_selection(model, work, bias_rate);
  }

  Result result;
  RoutingStatistics<Model> seen{4};
  std::vector<int> labels;
  constexpr int batches = 16;  // of 1,024 tokens, the same for every row
  for (std::uint64_t i = 0; i < batches; ++i) {
    sample_batch(setup.corpus.val, batch, Key{1}.with(Purpose::evaluation, i));
    result.loss += model.forward(batch, work).cross_entropy / batches;
    labels.clear();
    for (const Index start : batch.starts)
      for (Index t = start; t < start + batch.shape.length; ++t)
        labels.push_back(setup.text.dialect_of_char[setup.corpus.train.size() + static_cast<std::size_t>(t)]);
    seen.add(model, work, labels);
  }
  result.violation = seen.worst_violation();
  result.dead = seen.dead();
  for (const auto& layer : seen.layers)
    result.information = std::max(result.information, layer.classes.mutual_information());
  return result;
}

// One line per balancing method. Coefficients are as published; those of variance and count give gradients as
// large as that of the Switch loss.
struct Row {
  const char* name;
  Result (*train)(const Setup&, const Objective&, double bias_rate, Key);
  Objective objective;
  double bias_rate = 0;
};
using Plain = TopKRouter<E, 1>;
using Biased = TopKRouter<E, 1, TopK{.gates = Gates::probability, .selection_bias = true}>;
using Noisy = AllowConstantGate<NoisyTopKRouter<E, 1>>;
const Row rows[] = {
    {"none", train<Plain>, {}},
    {"z-loss 0.001", train<Plain>, {.z = 0.001}},
    {"count: Switch 0.01", train<Plain>, {.balance = 0.01}},
    {"count: Switch 0.03", train<Plain>, {.balance = 0.03}},
    {"count: GShard 0.01", train<Plain>, {.balance = 0.01, .balance_rule = BalanceRule::gshard}},
    {"count: megablocks 0.1", train<Plain>, {.balance = 0.1, .balance_rule = BalanceRule::megablocks}},
    {"count: Hugging Face 0.1", train<Plain>, {.balance = 0.1, .balance_rule = BalanceRule::huggingface}},
    {"count: DeepSeek per sequence 0.01",
     train<Plain>,
     {.balance = 0.01, .balance_rule = BalanceRule::deepseek}},
    {"count: selection bias, rate 0.001", train<Biased>, {}, 0.001},
    {"count: selection bias, rate 0.01", train<Biased>, {}, 0.01},
    {"count: selection bias 0.01, sigmoid", train<SigmoidRouter<E, 1>>, {}, 0.01},
    {"importance 0.1", train<Plain>, {.importance = 0.1}},
    {"noisy, importance and load 0.1", train<Noisy>, {.importance = 0.1, .load = 0.1}},
    {"variance of mean scores 0.3", train<Plain>, {.variance = 0.3}},
    {"squared deviation of summed scores 3e-7", train<Plain>, {.count = 3e-7}},
    {"expert choice, by batch", train<AllowNonCausal<ExpertChoiceRouter<E, 1>>>, {}},
    {"hash of the character", train<HashRouter<E, 1>>, {}},
};

struct Options {
  long steps = 1000, seeds = 1;
  double learning_rate = 0.01;
  std::string rows;
  int threads = 2;
};

void start(const Options& o) {
  const Dialects dialects;
  Setup setup{.text = dialects.generate(600000, Key{1}.with(Purpose::corpus)),
              .corpus = {},
              .steps = o.steps,
              .seeds = o.seeds,
              .rate = o.learning_rate,
              .exec = {o.threads}};
  setup.corpus = split_corpus(setup.text.text, Tokenizer::characters(setup.text.text));
  std::printf(
      "%d layers, %d experts, K = 1, %ld steps of 1,024 tokens, learning rate %g; entropy of the text: "
      "%.4f nats per character\n\n",
      config.layers, E, setup.steps, setup.rate, dialects.entropy_rate());
  std::printf(
      "| balancing | seed | MaxVio of the worst layer | dead experts of %d | I(dialect; expert) of the best "
      "layer, nats | held-out loss |\n|---|---|---|---|---|---|\n",
      E * config.layers);
  for (const Row& row : rows)
    if (std::string(row.name).find(o.rows) != std::string::npos)
      for (long seed = 1; seed <= setup.seeds; ++seed) {
        const Result r =
            row.train(setup, row.objective, row.bias_rate, Key{static_cast<std::uint64_t>(seed)});
        std::printf("| %s | %ld | %.2f | %d | %.3f | %.4f |\n", row.name, seed, r.violation, r.dead,
                    r.information, r.loss);
        std::fflush(stdout);
      }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Do experts collapse, and what prevents it?", "collapse");
  Options o;
  using namespace options;
  app.add_option("--steps", o.steps, "Training steps of each run (default 1000)")->check(whole(1));
  app.add_option("--seeds", o.seeds, "Runs of each row (default 1)")->check(whole(1, 1000));
  app.add_option("--lr", o.learning_rate, "Learning rate (default 0.01)")
      ->check(real(0, std::numeric_limits<double>::max(), From::exclusive));
  app.add_option("--rows", o.rows, "Only rows whose name has this text");
  app.add_option("--threads", o.threads, "Default 2")->check(threads());
  return run(app, argc, argv, [&] { start(o); });
}
