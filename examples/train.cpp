// Trains a GPT with experts on a text file and prints its progress. See --help.
#include <moegpt/io.hpp>

#include <chrono>
#include <cstdio>
#include <filesystem>

#include "options.hpp"
#include "presets.hpp"

using namespace moegpt;

namespace {

struct Options {
  std::string data, save, preset = "small", tokenizer = "auto";
  std::optional<int> steps;
  std::optional<Index> batch, length;
  std::optional<double> learning_rate, capacity;
  std::uint64_t seed = 1337;
  int threads = options::default_threads(), eval_every = 250, sample_every = 0, log_every = 50;
};

void declare(CLI::App& app, Options& o) {
  using namespace options;
  app.add_option("--data", o.data, "Any text; without it, one is generated whose entropy is known")
      ->check(file_name());
#ifndef MOEGPT_MODEL
  app.add_option("--preset", o.preset, "small (default) or makemoe")
      ->check(CLI::IsMember({"small", "makemoe"}));
#endif
  app.add_option("--tokenizer", o.tokenizer,
                 "auto (default: characters, or bytes if the text is not UTF-8 or has more "
                 "than 256 different ones), characters, bytes")
      ->check(CLI::IsMember({"auto", "characters", "bytes"}));
  app.add_option("--save", o.save, "Where the trained model goes, as safetensors")->check(file_name());
  app.add_option("--steps", o.steps, "Training steps, instead of the preset's")->check(whole(0));
  app.add_option("--batch", o.batch, "Sequences in a batch, instead of the preset's")
      ->check(whole(1, 1000000));
  app.add_option("--length", o.length, "Tokens in a sequence, instead of the preset's")
      ->check(whole(1, 1000000));
  app.add_option("--lr", o.learning_rate, "Learning rate, instead of the preset's")
      ->check(real(0, std::numeric_limits<double>::max(), From::exclusive));
  app.add_option("--capacity", o.capacity,
                 "Each expert takes at most so many times its share of the tokens; 0: all")
      ->check(real(0, 1e6));
  app.add_option("--seed", o.seed, "Of weights, batches, noise and samples (default 1337)")->check(seed());
  app.add_option("--threads", o.threads, "Default: 2, or 1 on a machine with one core")->check(threads());
  app.add_option("--eval-every", o.eval_every,
                 "Steps between validation losses (default 250; 0: only at the end)")
      ->check(whole(0));
  app.add_option("--sample-every", o.sample_every, "Steps between samples of text (default 0: none)")
      ->check(whole(0));
  app.add_option("--log-every", o.log_every, "Steps between lines of progress (default 50)")->check(whole(1));
  app.final_callback([&o] {
    std::error_code missing;
    if (!o.data.empty() && !o.save.empty() && std::filesystem::equivalent(o.data, o.save, missing))
      throw CLI::ValidationError("--save",
                                 "is '" + o.save + "', the text of --data, which the model would replace");
  });
}

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Text {
  std::string text;
  double entropy_rate = 0;  // nats per character, the least possible loss; 0: unknown
};

Text read_or_generate(const Options& o) {
  if (!o.data.empty()) return {read_text(o.data)};
  const Dialects dialects;
  return {dialects.generate(1100000, Key{o.seed}.with(Purpose::corpus)).text, dialects.entropy_rate()};
}

Tokenizer tokenizer_for(const Options& o, const std::string& text) {
  const std::size_t invalid = utf8::first_invalid(text);
  if (o.tokenizer == "bytes") return Tokenizer::bytes();
  if (o.tokenizer == "auto" && invalid != std::string::npos) {
    std::printf("the text is not UTF-8 (byte %zu): its tokens are bytes\n", invalid);
    return Tokenizer::bytes();
  }
  Tokenizer characters = Tokenizer::characters(text);
  if (characters.vocab() <= 256) return characters;
  check(o.tokenizer == "auto", "the text has ", characters.vocab(),
        " different characters, this program's models at most "
        "256: use --tokenizer bytes");
  std::printf("the text has %d different characters: its tokens are bytes\n", characters.vocab());
  return Tokenizer::bytes();
}

// Converts a loss in nats per token to nats per character and byte of the validation part.
struct Units {
  double tokens;
  TextLength length;
  Units(const Corpus& corpus, std::string_view whole)
      : tokens(static_cast<double>(corpus.val.size() - 1)),
        length(length_of(corpus.tokenizer.decode(std::span(corpus.val).subspan(1)), whole)) {}
  double per_character(double loss) const { return loss * tokens / static_cast<double>(length.characters); }
  double per_byte(double loss) const { return loss * tokens / static_cast<double>(length.bytes); }
  // For a line of progress: one number, where it is the same in all units.
  std::string brief(double loss) const {
    char both[80];
    if (length.characters > 0 && length.characters < length.bytes)
      std::snprintf(both, sizeof both, "  val %.4f/char %.4f/byte", per_character(loss), per_byte(loss));
    else
      std::snprintf(both, sizeof both, "  val %.4f", per_byte(loss));
    return both;
  }
  std::string text(double loss) const {
    char both[80];
    if (length.characters > 0)
      std::snprintf(both, sizeof both, "%.4f nats/char, %.4f nats/byte", per_character(loss), per_byte(loss));
    else
      std::snprintf(both, sizeof both, "%.4f nats/byte", per_byte(loss));
    return both;
  }
};

template <class Preset, int V>
void run(const Options& o, const Text& text, Tokenizer tokenizer) {
  using Model = typename Preset::template Model<V>;
  training::Recipe recipe = Preset::recipe();
  if (o.steps) recipe.steps = *o.steps;
  if (o.batch) recipe.batch.batch = *o.batch;
  if (o.length) recipe.batch.length = *o.length;
  if (o.learning_rate)
    recipe.final_rate *= *o.learning_rate / recipe.learning_rate, recipe.learning_rate = *o.learning_rate;
  if (o.capacity) recipe.options.capacity_factor = *o.capacity;
  const Key seed{o.seed};
  const Exec exec{o.threads};
  const Corpus corpus = split_corpus(text.text, std::move(tokenizer));
  const Units units(corpus, text.text);

  Model model, grad;
  init(model, seed, recipe.init);
  model.options = recipe.options;
  Adam<Model> adam{recipe.adam};
  typename Model::Workspace work{recipe.batch, exec, recipe.objective};
  typename Model::Workspace eval_work{recipe.batch, exec, {}, Use::inference};
  for (const auto* part : {&corpus.train, &corpus.val})
    check(std::ssize(*part) > recipe.batch.length, "the text is too short: of its ",
          corpus.train.size() + corpus.val.size(), " tokens the last tenth, ", corpus.val.size(),
          ", is for validation, and each part needs at least ", recipe.batch.length + 1,
          ": use a longer text, or a smaller --length");
  const WarmupCosine schedule{.peak = recipe.learning_rate,
                              .minimum = recipe.final_rate,
                              .warmup = recipe.warmup,
                              .steps = recipe.steps};
  std::optional<Key> noise;
  if (recipe.noisy_evaluation) noise = seed.with(Purpose::evaluation);
  auto validate = [&](int batches) {
    return estimate_loss(model, corpus.val, eval_work, batches, seed.with(Purpose::evaluation), noise);
  };
  const std::string prompt = corpus.tokenizer.knows("\n") ? "\n" : "";
  auto sample = [&](int tokens) {
    return generate(model, corpus.tokenizer, prompt,
                    {.tokens = tokens,
                     .sampling = {.temperature = 0.8},
                     .seed = seed.value,
                     .exec = exec,
                     .noise = noise});
  };

  std::printf("%s\n%td parameters, %.0f active for each token\n", to_text<Model>().c_str(),
              count_weights(model), model.active_weights());
  std::printf("text: %zu tokens for training, %zu for validation, %d different; %d threads, %s\n",
              corpus.train.size(), corpus.val.size(), corpus.tokenizer.vocab(), exec.threads,
              build_info().simd);
  std::printf("losses are in nats per token, and a token is a %s\n",
              corpus.tokenizer == Tokenizer::bytes() ? "byte" : "character");
  if (text.entropy_rate > 0)
    std::printf("the text was generated: no model can get below %.4f nats/char\n", text.entropy_rate);
  std::fflush(stdout);

  Batch batch{recipe.batch};
  double since = seconds(), tokens = 0;
  for (int step = 0; step < recipe.steps; ++step) {
    std::string val;
    if (o.eval_every > 0 && step % o.eval_every == 0) {
      const double start = seconds();
      val = units.brief(validate(20));
      since += seconds() - start;
    }
    if (o.sample_every > 0 && step > 0 && step % o.sample_every == 0)
      std::printf("---\n%s\n---\n", sample(200).c_str());

    sample_batch(corpus.train, batch, seed.with(Purpose::batch, step));
    const Loss loss = model.forward(batch, work, seed.with(Purpose::step, step));
    set_zero(grad, exec);
    model.backward(batch, work, grad);
    const double norm = global_norm(grad, exec);
    adam.options.learning_rate = schedule(step);
    adam.step(model, grad, exec, clip_scale(norm, recipe.clip));
    tokens += static_cast<double>(batch.shape.tokens());

    if (step % o.log_every == 0 || !val.empty()) {
      const double now = seconds(), steps_done = tokens / static_cast<double>(batch.shape.tokens());
      std::printf("step %5d/%d  loss %.4f%s  %.0f tokens/s  %.0f ms  lr %.1e  |g| %.2f  %s\n", step,
                  recipe.steps, loss.cross_entropy, val.c_str(), tokens / (now - since),
                  1e3 * (now - since) / steps_done, adam.options.learning_rate, norm,
                  bars(expert_load<Model>(work)).c_str());
      std::fflush(stdout);
      since = now;
      tokens = 0;
    }
  }

  if (!o.save.empty()) {  // first, because later steps may throw
    save(o.save, model, corpus.tokenizer);
    std::printf("saved %s\n", o.save.c_str());
  }
  std::printf("a sample:\n%s\n", sample(300).c_str());
  const double final_loss =
      recipe.noisy_evaluation ? validate(400) : evaluate(model, std::span<const int>(corpus.val), eval_work);
  if (text.entropy_rate > 0)
    std::printf("%.4f nats/char above the entropy rate\n",
                units.per_character(final_loss) - text.entropy_rate);
  std::printf("final val loss: %s\n", units.text(final_loss).c_str());
}

void start(const Options& o) {
  if (!o.save.empty()) check_can_write(o.save);  // before training
  const Text text = read_or_generate(o);
  Tokenizer tokenizer = tokenizer_for(o, text.text);
#ifdef MOEGPT_MODEL
  check(tokenizer.vocab() <= training::Given::vocab, "the model has ", training::Given::vocab,
        " tokens, this text ", tokenizer.vocab(), ": use another text, or a type of a larger .vocab");
  run<training::Given, training::Given::vocab>(o, text, std::move(tokenizer));
#else
  if (o.preset == "makemoe") {
    check(tokenizer.vocab() <= training::MakeMoE::vocab, "preset makemoe has ", training::MakeMoE::vocab,
          " tokens, this text ", tokenizer.vocab(), ": use --preset small, or another text");
    return run<training::MakeMoE, training::MakeMoE::vocab>(o, text, std::move(tokenizer));
  }
  if (tokenizer.vocab() <= training::Small::vocab)
    return run<training::Small, training::Small::vocab>(o, text, std::move(tokenizer));
  run<training::Small, 256>(o, text, std::move(tokenizer));
#endif
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Trains a GPT with mixtures of experts on a text", "train");
  Options o;
  declare(app, o);
  return options::run(app, argc, argv, [&] { start(o); });
}
