// Trains a small GPT with experts on a synthetic text in four dialects, and shows the routing of its tokens:
// tables on the terminal and an HTML report. See --help.
#include <moegpt/io.hpp>

#include <cstdio>

#include "options.hpp"
#include "routing_page.hpp"

using namespace moegpt;

namespace {

struct Options {
  std::string out = "routing.html";
  long steps = 1500;
  double balance = 0.01, learning_rate = 0.003;
  std::uint64_t seed = 1;
  int threads = options::default_threads();
};

void declare(CLI::App& app, Options& o) {
  using namespace options;
  app.add_option("--out", o.out, "The HTML report (default routing.html): one file for any browser")
      ->check(file_name());
  app.add_option("--steps", o.steps, "Training steps (default 1500)")->check(whole(1));
  app.add_option("--balance", o.balance,
                 "Coefficient of the balance loss (default 0.01; 0: see what happens without)")
      ->check(real(0));
  app.add_option("--lr", o.learning_rate, "Learning rate (default 0.003)")
      ->check(real(0, std::numeric_limits<double>::max(), From::exclusive));
  app.add_option("--seed", o.seed, "Of the text, the weights and the batches (default 1)")->check(seed());
  app.add_option("--threads", o.threads, "Default: 2, or 1 on a machine with one core")->check(threads());
}

constexpr int K = 2, frames = 60;  // experts per token; points in time in the report
constexpr Config config{.vocab = 64, .context = 64, .dim = 64, .layers = 2, .heads = 4, .hidden = 128};
using Model = GPT<config, TopKRouter<8, K>>;
using routing_page::Frame, routing_page::Watched;

// The dialect of each token of a batch, given the dialect of each character of its text.
void label(const Batch& batch, std::span<const std::uint8_t> dialect_of_char, std::vector<int>& labels) {
  labels.clear();
  for (const Index start : batch.starts)
    for (Index t = start; t < start + batch.shape.length; ++t)
      labels.push_back(dialect_of_char[static_cast<std::size_t>(t)]);
}

// The first sentence of each dialect.
std::vector<std::string> first_sentences(const Dialects::Text& text, int dialects) {
  std::vector<std::string> all(static_cast<std::size_t>(dialects));
  for (std::size_t from = 0; from < text.text.size();) {
    const std::size_t end = std::min(text.text.find('\n', from), text.text.size());
    std::string& sentence = all[text.dialect_of_char[from]];
    if (sentence.empty()) sentence = text.text.substr(from, end - from);
    from = end + 1;
  }
  return all;
}

void remember(const RoutingStatistics<Model>& recent, Frame& frame) {
  for (const auto& layer : recent.layers) {
    frame.violation.push_back(layer.routing.max_violation());
    frame.information.push_back(layer.classes.mutual_information());
    auto& share = frame.share.emplace_back();
    for (int e = 0; e < layer.routing.experts; ++e) share.push_back(layer.routing.share(e));
  }
}

void print(const Frame& now, const RoutingStatistics<Model>& recent, long step, long steps) {
  std::printf("step %5ld/%ld  loss %.3f", step, steps, now.loss);
  for (std::size_t i = 0; i < recent.layers.size(); ++i)
    std::printf("  | MaxVio %.2f  I(dialect; expert) %.3f  %s", now.violation[i], now.information[i],
                bars(recent.layers[i].routing.load).c_str());
  std::printf("\n");
  std::fflush(stdout);
}

Watched train(const Options& o) {
  const Key seed{o.seed};
  const Exec exec{o.threads};
  const Dialects dialects;
  const Dialects::Text text = dialects.generate(500000, seed.with(Purpose::corpus));
  const Corpus corpus = split_corpus(text.text, Tokenizer::characters(text.text), 0.95);
  const std::span<const std::uint8_t> dialect{text.dialect_of_char};
  Watched seen{.steps = o.steps,
               .balance = o.balance,
               .entropy_rate = dialects.entropy_rate(),
               .choices = K,
               .samples = first_sentences(text, dialects.options().dialects)};

  Model model, grad;
  init(model, seed);
  Adam<Model> adam{{.weight_decay = 0.1, .decay_of = DecayOf::matrices}};
  const WarmupCosine schedule{
      .peak = o.learning_rate, .minimum = o.learning_rate / 10, .warmup = 50, .steps = seen.steps};
  Model::Workspace work{{.batch = 16, .length = 64}, exec, {.balance = seen.balance}};
  const Windows held_out{corpus.val, work.shape.batch, work.shape.length};
  Batch batch{work.shape}, fixed;
  held_out.read(0, fixed);
  std::vector<int> labels;
  RoutingStatistics<Model> recent{dialects.options().dialects};

  std::printf("%s\n%td parameters, %.0f active for each token; no model can get below %.4f nats/char\n",
              "a GPT with two mixtures of 8 experts, 2 for each token", count_weights(model),
              model.active_weights(), seen.entropy_rate);
  double loss = 0;
  for (long step = 1, since = 0; step <= seen.steps; ++step) {
    const auto number = static_cast<std::uint64_t>(step);
    sample_batch(corpus.train, batch, seed.with(Purpose::batch, number));
    loss += model.forward(batch, work, seed.with(Purpose::step, number)).cross_entropy;
    label(batch, dialect, labels);
    recent.add(model, work, labels);
    set_zero(grad, exec);
    model.backward(batch, work, grad);
    adam.options.learning_rate = schedule(step - 1);
    adam.step(model, grad, exec, clip_scale(global_norm(grad, exec), 1));

    const long frame = std::ssize(seen.history) + 1;
    if (step * frames < frame * seen.steps) continue;
    Frame& now = seen.history.emplace_back();
    now.loss = loss / static_cast<double>(step - since);
    remember(recent, now);
    if (frame % 6 == 0) print(now, recent, step, seen.steps);
    recent.clear();
    loss = 0, since = step;
    model.forward(fixed, work);
    now.routes = routes(model, work);
  }

  RoutingStatistics<Model> by_dialect{dialects.options().dialects}, by_letter{Model::V};
  for (Index i = 0; i < held_out.size(); ++i) {
    held_out.read(i, batch);
    seen.held_out_loss +=
        model.forward(batch, work).cross_entropy * static_cast<double>(batch.shape.tokens());
    label(batch, dialect.subspan(corpus.train.size()), labels);
    by_dialect.add(model, work, labels);
    by_letter.add(model, work, batch.inputs);
  }
  seen.held_out_loss /= static_cast<double>(corpus.val.size() - 1);
  for (std::size_t i = 0; i < by_dialect.layers.size(); ++i) {
    auto& [layer, routing, classes] = by_dialect.layers[i];
    seen.layers.push_back({layer, routing, classes, by_letter.layers[i].classes});
  }
  return seen;
}

void print_tables(const Watched& seen) {
  std::printf("\nheld-out text: loss %.4f, %.4f above the entropy rate\n", seen.held_out_loss,
              seen.held_out_loss - seen.entropy_rate);
  for (const auto& [number, routing, dialects, letters] : seen.layers) {
    std::printf("\nlayer %d: percent of each dialect's choices that go to each expert\n           ", number);
    for (int e = 0; e < routing.experts; ++e) std::printf("%6d", e);
    for (int c = 0; c < dialects.classes; ++c) {
      std::printf("\n  dialect %s", routing_page::dialect_name(c).c_str());
      for (int e = 0; e < routing.experts; ++e)
        std::printf("%6.1f", 100 * routing_page::share_of(dialects, c, e));
    }
    std::printf(
        "\n  mutual information of expert and dialect %.3f nats (%.0f %% of the dialect's entropy), of "
        "expert "
        "and letter %.3f (%.0f %%)\n",
        dialects.mutual_information(), 100 * dialects.explained(), letters.mutual_information(),
        100 * letters.explained());
    std::printf(
        "  MaxVio %.2f, CV %.2f, dead experts %d, router entropy %.2f of at most %.2f, mean top gate %.2f\n",
        routing.max_violation(), routing.cv(), routing.dead(), routing.mean_entropy(),
        std::log(routing.experts), routing.mean_top_gate());
  }
}

void start(const Options& o) {
  check_can_write(o.out);  // before training
  const Watched seen = train(o);
  print_tables(seen);
  const std::string page = routing_page::html(seen);
  write_file_atomically(o.out, [&](FileWriter& out) { out.write(page); });
  std::printf("\nwrote %s\n", o.out.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Trains a small GPT with experts and shows which expert processes which tokens",
               "watch_routing");
  Options o;
  declare(app, o);
  return options::run(app, argc, argv, [&] { start(o); });
}
