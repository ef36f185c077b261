// Trains a GPT with experts on a text file and shows how it goes. See --help.
#include <moegpt/io.hpp>

#include <chrono>
#include <cstdio>
#include <thread>

#include "arguments.hpp"
#include "presets.hpp"

using namespace moegpt;

namespace {

const char* help = R"(train: trains a GPT with mixtures of experts on a text
  --data FILE        any text; without it, one is generated whose entropy is known
  --preset NAME      small (default) or makemoe
  --save FILE        where the trained model goes, as safetensors
  --steps N  --batch B  --length T  --lr X   instead of the preset's
  --capacity X       each expert takes at most X times its share of the tokens; 0: all
  --seed S           of weights, batches, noise and samples (default 1337)
  --threads N        default: 2, or 1 on a machine with one core
  --eval-every N     validation loss every N steps (default 250; 0: only at the end)
  --sample-every N   some generated text every N steps (default 0: never)
  --log-every N      a line of progress every N steps (default 50)
)";

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Text {
  std::string text;
  double floor = 0;   // nats per character below which no model can get; 0: unknown
};

Text read_or_generate(const Arguments& args, Key seed) {
  if (args.has("--data")) return {read_text(args.text("--data"))};
  const Dialects dialects;
  return {dialects.generate(1100000, seed.with(Purpose::corpus)).text, dialects.entropy_rate()};
}

void check_can_write(const std::string& path) {
  if (path.empty()) return;
  std::FILE* file = std::fopen(path.c_str(), "ab");   // now, not after an hour of training
  check(file != nullptr, "cannot write the model to '", path, "': ", std::strerror(errno));
  const bool fresh = std::ftell(file) == 0;
  std::fclose(file);
  if (fresh) std::remove(path.c_str());
}

template <class Preset, int V>
int run(const Arguments& args, const Text& text, Tokenizer tokenizer) {
  using Model = typename Preset::template Model<V>;
  training::Recipe recipe = Preset::recipe();
  if (args.has("--steps")) recipe.steps = static_cast<int>(args.count("--steps"));
  if (args.has("--batch")) recipe.batch.batch = args.count("--batch");
  if (args.has("--length")) recipe.batch.length = args.count("--length");
  if (args.has("--lr")) recipe.final_rate *= args.number("--lr") / recipe.learning_rate, recipe.learning_rate = args.number("--lr");
  if (args.has("--capacity")) recipe.options.capacity_factor = args.number("--capacity");
  const Key seed{static_cast<std::uint64_t>(args.count("--seed"))};
  const Exec exec{static_cast<int>(args.count("--threads", 1))};
  const long log_every = args.count("--log-every", 1), eval_every = args.count("--eval-every"),
             sample_every = args.count("--sample-every");
  const Corpus corpus = split_corpus(text.text, std::move(tokenizer));

  Model model, grad;
  init(model, seed, recipe.init);
  model.options = recipe.options;
  Adam<Model> adam{recipe.adam};
  typename Model::Workspace work{recipe.batch, exec, recipe.objective};
  typename Model::Workspace eval_work{recipe.batch, exec, {}, Use::inference};
  const WarmupCosine schedule{.peak = recipe.learning_rate, .floor = recipe.final_rate, .warmup = recipe.warmup, .steps = recipe.steps};
  std::optional<Key> noise;
  if (recipe.noisy_evaluation) noise = seed.with(Purpose::evaluation);
  auto validate = [&](int batches) {
    return estimate_loss(model, corpus.val, eval_work, batches, seed.with(Purpose::evaluation), noise);
  };
  auto sample = [&](int tokens) {
    return generate(model, corpus.tokenizer, "\n", {.tokens = tokens, .sampling = {.temperature = 0.8},
                    .seed = seed.value, .exec = exec, .noise = noise});
  };

  std::printf("%s\n%td parameters, %.0f active for each token\n", to_text<Model>().c_str(), count_weights(model),
              model.active_weights());
  std::printf("text: %zu tokens to train on, %zu to judge by, %d different; %d threads, %s\n", corpus.train.size(),
              corpus.val.size(), corpus.tokenizer.vocab(), exec.threads, build_info().simd);
  if (text.floor > 0) std::printf("the text was generated: no model can get below %.4f nats/char\n", text.floor);
  std::fflush(stdout);

  Batch batch{recipe.batch};
  double since = seconds(), tokens = 0;
  for (int step = 0; step <= recipe.steps; ++step) {
    std::string val;
    if (eval_every > 0 && step % eval_every == 0) {
      const double start = seconds();
      char shown[32];
      std::snprintf(shown, sizeof shown, "  val %.4f", validate(20));
      val = shown;
      since += seconds() - start;
    }
    if (sample_every > 0 && step > 0 && step % sample_every == 0) std::printf("---\n%s\n---\n", sample(200).c_str());
    if (step == recipe.steps) break;

    sample_batch(corpus.train, batch, seed.with(Purpose::batch, step));
    const Loss loss = model.forward(batch, work, seed.with(Purpose::step, step));
    set_zero(grad, exec);
    model.backward(batch, work, grad);
    const double norm = global_norm(grad, exec);
    adam.options.learning_rate = schedule(step);
    adam.step(model, grad, exec, clip_scale(norm, recipe.clip));
    tokens += static_cast<double>(batch.shape.tokens());

    if (step % log_every == 0 || !val.empty()) {
      const double now = seconds(), steps_done = tokens / static_cast<double>(batch.shape.tokens());
      std::printf("step %5d/%d  loss %.4f%s  %.0f tokens/s  %.0f ms  lr %.1e  |g| %.2f  %s\n", step, recipe.steps,
                  loss.cross_entropy, val.c_str(), tokens / (now - since), 1e3 * (now - since) / steps_done,
                  adam.options.learning_rate, norm, bars(expert_load<Model>(work)).c_str());
      std::fflush(stdout);
      since = now;
      tokens = 0;
    }
  }

  if (args.has("--save")) {
    save(args.text("--save"), model, corpus.tokenizer);
    std::printf("saved %s\n", args.text("--save").c_str());
  }
  std::printf("a sample:\n%s\n", sample(300).c_str());
  const double final_loss = recipe.noisy_evaluation ? validate(400) : evaluate(model, std::span<const int>(corpus.val), eval_work);
  if (text.floor > 0) std::printf("%.4f above the floor\n", final_loss - text.floor);
  std::printf("final val loss: %.4f nats/char\n", final_loss);
  return 0;
}

int start(int argc, char** argv) {
  const char* threads = std::thread::hardware_concurrency() == 1 ? "1" : "2";
  const Arguments args(argc, argv, {{"--data", ""}, {"--preset", "small"}, {"--save", ""}, {"--steps", ""},
                                    {"--batch", ""}, {"--length", ""}, {"--lr", ""}, {"--capacity", ""},
                                    {"--seed", "1337"}, {"--threads", threads}, {"--eval-every", "250"},
                                    {"--sample-every", "0"}, {"--log-every", "50"}});
  const Text text = read_or_generate(args, Key{static_cast<std::uint64_t>(args.count("--seed"))});
  check_can_write(args.text("--save"));
  Tokenizer tokenizer = Tokenizer::characters(text.text);
  if (args.text("--preset") == "makemoe") {
    check(tokenizer.vocab() <= 65, "preset makemoe has 65 characters, this text ", tokenizer.vocab(),
          ": use --preset small, or another text");
    return run<training::MakeMoE, 65>(args, text, std::move(tokenizer));
  }
  check(args.text("--preset") == "small", "no preset is called '", args.text("--preset"), "': use small or makemoe");
  if (tokenizer.vocab() > training::Small::vocab) tokenizer = Tokenizer::bytes();
  if (tokenizer.vocab() <= training::Small::vocab) return run<training::Small, training::Small::vocab>(args, text, std::move(tokenizer));
  return run<training::Small, 256>(args, text, std::move(tokenizer));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && (std::string(argv[1]) == "--help" || std::string(argv[1]) == "-h")) return std::fputs(help, stdout), 0;
  try {
    return start(argc, argv);
  } catch (const std::exception& e) {
    std::fflush(stdout);
    std::fprintf(stderr, "train: %s\n", e.what());
    return 1;
  }
}
