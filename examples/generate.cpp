// Generates text with a trained model. See --help.
#include <moegpt/io.hpp>

#include <cstdio>

#include "options.hpp"
#include "presets.hpp"

using namespace moegpt;

namespace {

struct Options {
  std::string model;
  std::optional<std::string> prompt;
  int tokens = 400;
  Sampling sampling{.temperature = 0.8};
  std::uint64_t seed = 1;
  int threads = 1;
};

void declare(CLI::App& app, Options& o) {
  using namespace options;
  app.add_option("--model", o.model, "A model of one of the presets, as saved by train --save")
      ->required()
      ->check(file_name());
  app.add_option("--prompt", o.prompt,
                 "The text to continue (default: a new line, or the model's first token)");
  app.add_option("--tokens", o.tokens, "Number of tokens to generate (default 400)")->check(whole(0));
  app.add_option("--temperature", o.sampling.temperature, "0: always the most probable token (default 0.8)")
      ->check(real(0));
  app.add_option("--top-k", o.sampling.top_k, "Sample among the K most probable tokens; 0: all (default)")
      ->check(whole(0));
  app.add_option("--top-p", o.sampling.top_p,
                 "Sample among the fewest most probable tokens with total probability P "
                 "(default 1: all)")
      ->check(real(0, 1, From::exclusive));
  app.add_option("--seed", o.seed, "Of the sampled tokens (default 1)")->check(seed());
  app.add_option("--threads", o.threads, "Default 1")->check(threads());
}

template <class Model>
void run(const Options& o, bool noisy) {
  Model model;
  Tokenizer tokenizer;
  load(o.model, model, tokenizer);
  Generate how{.tokens = o.tokens, .sampling = o.sampling, .seed = o.seed, .exec = {o.threads}};
  if (noisy) how.noise = Key{how.seed}.with(Purpose::router_noise);
  how.on_token = [](std::string_view piece) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  const std::string prompt = o.prompt.value_or(tokenizer.knows("\n") ? "\n" : "");
  tokenizer.encode(prompt);  // throws before anything is printed
  std::fwrite(prompt.data(), 1, prompt.size(), stdout);
  generate(model, tokenizer, prompt, how);
  std::fputs("\n", stdout);
}

// Tries the preset's model with vocabulary V; whether it was this one.
template <class Preset, int V>
bool is(const std::string& found, const Options& o) {
  using Model = typename Preset::template Model<V>;
  if (found != to_text<Model>()) return false;
  run<Model>(o, Preset::recipe().noisy_evaluation);
  return true;
}

void start(const Options& o) {
  const std::string found = model_text(o.model);
  if (is<training::Small, training::Small::vocab>(found, o) || is<training::Small, 256>(found, o) ||
      is<training::MakeMoE, training::MakeMoE::vocab>(found, o))
    return;
  check(false, o.model, " holds a ", found,
        ", which this program is not compiled for. Add it to examples/presets.hpp and compile again");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Continues a text with a model saved by train", "generate");
  Options o;
  declare(app, o);
  return options::run(app, argc, argv, [&] { start(o); });
}
