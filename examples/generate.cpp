// Lets a trained model write. See --help.
#include <moegpt/io.hpp>

#include <cstdio>
#include <thread>

#include "arguments.hpp"
#include "presets.hpp"

using namespace moegpt;

namespace {

const char* help = R"(generate: continues a text with a model saved by train
  --model FILE       a model of one of the presets
  --prompt TEXT      what to continue (default: a new line)
  --tokens N         how much to write (default 400)
  --temperature X    0: always the likeliest (default 0.8)
  --top-k K          choose among the K likeliest only; 0: all (default)
  --top-p P          choose among the fewest likeliest that reach probability P (default 1: all)
  --seed S           another seed, another text (default 1)
  --threads N        default 1
)";

template <class Model>
void run(const Arguments& args, bool noisy) {
  Model model;
  Tokenizer tokenizer;
  load(args.text("--model"), model, tokenizer);
  Generate how{.tokens = static_cast<int>(args.count("--tokens")),
               .sampling = {args.number("--temperature"), static_cast<int>(args.count("--top-k")), args.number("--top-p")},
               .seed = static_cast<std::uint64_t>(args.count("--seed")),
               .exec = {static_cast<int>(args.count("--threads", 1))}};
  if (noisy) how.noise = Key{how.seed}.with(Purpose::router_noise);
  how.on_token = [](std::string_view piece) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  const std::string& prompt = args.text("--prompt");
  tokenizer.encode(prompt);   // complains before anything is printed
  std::fputs(prompt.c_str(), stdout);
  generate(model, tokenizer, prompt, how);
  std::fputs("\n", stdout);
}

// Tries the preset's model with vocabulary V; whether it was this one.
template <class Preset, int V>
bool is(const std::string& found, const Arguments& args) {
  using Model = typename Preset::template Model<V>;
  if (found != to_text<Model>()) return false;
  run<Model>(args, Preset::recipe().noisy_evaluation);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && (std::string(argv[1]) == "--help" || std::string(argv[1]) == "-h")) return std::fputs(help, stdout), 0;
  try {
    const Arguments args(argc, argv, {{"--model", ""}, {"--prompt", "\n"}, {"--tokens", "400"}, {"--temperature", "0.8"},
                                      {"--top-k", "0"}, {"--top-p", "1"}, {"--seed", "1"}, {"--threads", "1"}});
    check(args.has("--model"), "no model was given: --model FILE, a file that train --save FILE wrote");
    const std::string found = model_text(args.text("--model"));
    if (is<training::Small, training::Small::vocab>(found, args) || is<training::Small, 256>(found, args) ||
        is<training::MakeMoE, training::MakeMoE::vocab>(found, args))
      return 0;
    check(false, args.text("--model"), " holds a ", found,
          ", which this program is not compiled for. Add it to examples/presets.hpp and compile again");
  } catch (const std::exception& e) {
    std::fflush(stdout);
    std::fprintf(stderr, "generate: %s\n", e.what());
    return 1;
  }
}
