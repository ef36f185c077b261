#pragma once
// The options of `train`: their declaration, and which of them a run keeps.
#include <moegpt/io.hpp>

#include <map>
#include <optional>
#include <set>

#include "../options.hpp"

namespace training {
using namespace moegpt;

struct Options {
  // Of the training. A run keeps them.
  std::vector<std::string> data;
  std::string format = "auto";
  std::string nul = "refuse", carriage_return = "remove", invalid = "keep";  // names of moegpt::Bytes
  std::string separator, from;
  std::string preset, tokenizer = "auto", order = "random", balance_loads = "so-far";
  std::optional<int> steps, warmup;
  std::optional<Index> batch, length;
  std::optional<double> learning_rate, capacity;
  int accumulate = 1;
  std::uint64_t seed = 1337;
  // Of its execution. They may change when a run is resumed.
  int threads = options::default_threads(), eval_every = 250, sample_every = 0, log_every = 50;
  int checkpoint_every = 250, keep = 3, keep_every = 0, max_skips = 10;
  double checkpoint_minutes = 0;
  bool tensorboard = false, no_peak = false;
  // Of this process.
  std::string run, resume, save, color = "auto";
  bool overwrite = false;
  bool silent = false;  // another process prints

  void show(const std::string& text) const {
    if (!silent) std::fputs(text.c_str(), stderr);
  }
};

inline const std::set<std::string> of_this_process{"help",      "config", "run",          "resume",  "save",
                                                   "overwrite", "color",  "expert-ranks", "watchdog"};
// The text may have moved: its tokens are compared by a hash.
inline const std::set<std::string> may_change{
    "data",         "steps",      "threads",          "eval-every",
    "sample-every", "log-every",  "checkpoint-every", "checkpoint-minutes",
    "keep",         "keep-every", "max-skips",        "tensorboard",
    "no-peak"};

inline CLI::Validator id_or_auto() {
  return {[](std::string& text) -> std::string {
            std::uint64_t id = 0;
            if (text == "auto" || (options::read(text, id) && id <= std::numeric_limits<int>::max()))
              return {};
            return "is '" + text + "', expected auto or the id of a token";
          },
          ""};
}

inline void declare(CLI::App& app, Options& o, const std::vector<std::string>& presets) {
  using namespace options;
  const auto defaults_to = [](CLI::Option* option, const char* group) {
    return option->group(group)->capture_default_str();
  };
  o.preset = presets.front();
  const char *text = "Text", *training = "Training", *run = "Run", *output = "Output";
  app.add_option(
         "--data", o.data,
         "Texts: files, directories and patterns; without it, a text is generated whose entropy is known")
      ->check(file_name())
      ->group(text);
  defaults_to(app.add_option("--format", o.format,
                             "Of the files of --data: text, uint16 or uint32 (token ids), auto (token ids if "
                             "they have llm.c's header, otherwise text)")
                  ->check(one_of({"auto", "text", "uint16", "uint32"})),
              text);
  app.add_option("--separator", o.separator,
                 "Hides documents from each other: the id of the token that ends one, or auto (of llm.c's "
                 "files, their own or <|endoftext|> of the tokenizer; of several texts, a form feed that is "
                 "put between them)")
      ->check(id_or_auto())
      ->group(text);
  defaults_to(
      app.add_option("--tokenizer", o.tokenizer,
                     "auto (characters, or bytes if the text is not UTF-8 or has more than 256 different "
                     "ones; of token ids, bytes), characters, bytes, or a file: tokenizer.json, or a model's")
          ->check(one_of({"auto", "characters", "bytes"}, "a file: tokenizer.json, or a model's")),
      text);
  const auto add_rule = [&](const char* name, std::string& rule, const char* what) {
    defaults_to(app.add_option(name, rule, what)->check(one_of({"keep", "remove", "refuse"})), text);
  };
  add_rule("--nul", o.nul, "Bytes 0 of the text: keep, remove or refuse");
  add_rule("--carriage-return", o.carriage_return, "The CR of CR LF, likewise");
  add_rule("--invalid", o.invalid, "Bytes that are not UTF-8, likewise; kept, they need bytes as tokens");
  defaults_to(
      app.add_option("--order", o.order, "Windows of the text: random, or shuffled, each once in an epoch")
          ->check(one_of({"random", "shuffled"})),
      text);

  defaults_to(app.add_option("--preset", o.preset, "Model and recipe")->check(one_of(presets)), training);
  app.add_option("--steps", o.steps, "Training steps, instead of the preset's")
      ->check(whole(0))
      ->group(training);
  app.add_option("--from", o.from,
                 "A model to begin with, a file or a directory with config.json; without it, random weights")
      ->check(file_name())
      ->group(training);
  app.add_option("--warmup", o.warmup,
                 "Steps of growing learning rate (default: the preset's, at most a tenth of the steps)")
      ->check(whole(0))
      ->group(training);
  app.add_option("--batch", o.batch, "Sequences in a batch, instead of the preset's")
      ->check(whole(1, 1000000))
      ->group(training);
  app.add_option("--length", o.length, "Tokens in a sequence, instead of the preset's")
      ->check(whole(1, 1000000))
      ->group(training);
  defaults_to(app.add_option("--accumulate", o.accumulate, "Batches whose gradients are added in a step")
                  ->check(whole(1, 100000)),
              training);
  defaults_to(
      app.add_option(
             "--balance-loads", o.balance_loads,
             "Loads in the balance loss of accumulated batches: of the batch (batch), of it and those "
             "before it in the step (so-far), or of the step (step), by one more forward")
          ->check(one_of({"batch", "so-far", "step"})),
      training);
  app.add_option("--lr", o.learning_rate, "Learning rate, instead of the preset's")
      ->check(real(0, std::numeric_limits<double>::max(), From::exclusive))
      ->group(training);
  app.add_option("--capacity", o.capacity,
                 "Each expert takes at most so many times its share of the tokens; 0: all")
      ->check(real(0, 1e6))
      ->group(training);
  defaults_to(app.add_option("--seed", o.seed, "Of weights, batches, noise and samples")->check(seed()),
              training);

  auto* directory =
      app.add_option("--run", o.run, "A directory for a new run: checkpoints, metrics, the model")
          ->check(file_name())
          ->group(run);
  auto* resume =
      app.add_option("--resume", o.resume,
                     "Goes on with the run in a directory. Its options are kept; steps, threads and what "
                     "is saved and shown when may be changed")
          ->check(file_name())
          ->group(run);
  app.add_flag("--overwrite", o.overwrite, "Removes the files of the run that --run holds")
      ->needs(directory)
      ->group(run);
  directory->excludes(resume);
  defaults_to(
      app.add_option("--checkpoint-every", o.checkpoint_every, "Steps between checkpoints; 0: at the end")
          ->check(whole(0)),
      run);
  defaults_to(app.add_option("--checkpoint-minutes", o.checkpoint_minutes,
                             "Minutes after which there is one more, whatever the step; 0: by steps only")
                  ->check(real(0, 1e6)),
              run);
  defaults_to(app.add_option("--keep", o.keep,
                             "So many of the newest checkpoints are kept, and the one with the least "
                             "validation loss of those with an evaluation at their step")
                  ->check(whole(1)),
              run);
  defaults_to(app.add_option("--keep-every", o.keep_every,
                             "Also keeps checkpoints of steps that are multiples of it; 0: none")
                  ->check(whole(0)),
              run);
  defaults_to(app.add_option("--max-skips", o.max_skips,
                             "Steps that may be skipped because a number is not finite, before the run ends")
                  ->check(whole(0)),
              run);
  app.add_option("--save", o.save, "Where the trained model goes, as safetensors")
      ->check(file_name())
      ->group(run);
  app.set_config("--config", "", "A file of options: lines such as steps=3000")->group(run);
  app.allow_config_extras(CLI::config_extras_mode::error);

  defaults_to(app.add_option("--threads", o.threads, "Threads; the results have the same bits for any number")
                  ->check(options::threads()),
              output);
  defaults_to(app.add_option("--log-every", o.log_every, "Steps between lines of progress")->check(whole(1)),
              output);
  defaults_to(
      app.add_option("--eval-every", o.eval_every, "Steps between validation losses; 0: only at the end")
          ->check(whole(0)),
      output);
  defaults_to(app.add_option("--sample-every", o.sample_every, "Steps between samples of text; 0: none")
                  ->check(whole(0)),
              output);
  app.add_flag("--tensorboard", o.tensorboard, "Also writes the run's events for TensorBoard")->group(output);
  app.add_flag("--no-peak", o.no_peak,
               "Does not measure the processor's peak, which takes a fifth of a second")
      ->group(output);
  defaults_to(
      app.add_option("--color", o.color, "auto, always, never")->check(one_of({"auto", "always", "never"})),
      output);

  app.final_callback([&app, &o] {
    std::error_code missing;
    for (const std::string& file : o.data)
      if (!o.save.empty() && std::filesystem::equivalent(file, o.save, missing))
        throw CLI::ValidationError("--save",
                                   "is '" + o.save + "', the text of --data, which the model would replace");
    if (o.run.empty() && o.resume.empty())
      for (const char* name :
           {"--checkpoint-every", "--checkpoint-minutes", "--keep", "--keep-every", "--tensorboard"})
        if (app.get_option(name)->count() > 0)
          throw CLI::ValidationError(name, "is for a run with a directory: also give --run or --resume");
  });
}

// The options that a run keeps, by name: those given, and defaults. Several values are lines.
inline std::map<std::string, std::string> kept_options(const CLI::App& app) {
  std::map<std::string, std::string> kept;
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_single_name();
    if (of_this_process.contains(name)) continue;
    std::string text = option->get_default_str();
    if (option->count() > 0) text = CLI::detail::join(option->results(), "\n");
    if (!text.empty()) kept[name] = text;
  }
  return kept;
}

inline bool same_value(const std::string& a, const std::string& b) {
  double x = 0, y = 0;
  return a == b || (options::read(a, x) && options::read(b, y) && x == y);
}

// Parses the command line again, with the options of a run beneath those given. of_preset: values of options
// that the run was not given. Throws options::Failure for
// an option that differs and may not.
inline void add_kept_options(CLI::App& app, int argc, char** argv,
                             const std::map<std::string, std::string>& kept,
                             const std::map<std::string, std::string>& of_preset, const std::string& run) {
  std::vector<std::string> words(argv + 1, argv + argc);
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_single_name();
    if (option->count() == 0 || of_this_process.contains(name) || may_change.contains(name)) continue;
    const auto found = kept.find(name), preset = of_preset.find(name);
    const std::string before = found != kept.end()         ? found->second
                               : preset != of_preset.end() ? preset->second
                                                           : "";
    const std::string given = CLI::detail::join(option->results(), " ");
    if (!same_value(given, before))
      throw options::Failure(2, "--" + name + " is " + shown(given) + ", but the run in " + run + " has " +
                                    (before.empty() ? "none" : shown(before)) +
                                    ": leave it out to resume, or begin another run");
  }
  for (const auto& [name, text] : kept) {
    const CLI::Option* option = app.get_option_no_throw("--" + name);
    if (!option || of_this_process.contains(name))
      throw options::Failure(1, run + " has an option " + shown(name) + ", which this program does not know");
    if (option->count() > 0) continue;
    const bool flag = option->get_expected_max() == 0;
    for (std::size_t from = 0, to = 0; to != text.npos; from = to + 1) {
      to = text.find('\n', from);
      words.push_back("--" + name + (flag ? "" : "=" + text.substr(from, to == text.npos ? to : to - from)));
    }
  }
  try {
    std::reverse(words.begin(), words.end());
    app.parse(std::move(words));
  } catch (const CLI::ParseError& error) {
    throw options::Failure(1, "the options kept in " + run + " are damaged: " + error.what());
  }
}

}  // namespace training
