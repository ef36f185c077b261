#pragma once
// The program `train` for a list of presets: options, the run that is begun or resumed, and the model type.
#include "trainer.hpp"

namespace training {

// For what the command line says wrongly: exit status 2.
template <class F>
auto usage(F&& f) {
  try {
    return f();
  } catch (const std::invalid_argument& error) {
    throw options::Failure(2, error.what());
  }
}

template <class Preset, int V>
int train_with(World& world, const Options& o, const Text& text, Place place) {
  const auto trainer =
      usage([&] { return std::make_unique<Trainer<Preset, V>>(world, o, text, std::move(place)); });
  return trainer->run();
}
// The preset's type, with so many tokens.
template <class Preset>
std::string type_for(int vocab) {
  std::string type = to_text<typename Preset::template Model<Preset::vocab>>();
  const std::string found = ".vocab = " + std::to_string(Preset::vocab);
  return type.replace(type.find(found), found.size(), ".vocab = " + std::to_string(vocab));
}
template <class Preset>
int train(World& world, const Options& o, const Text& text, Place place) {
  const int vocab = text.tokenizer.vocab();
  if (vocab <= Preset::vocab) return train_with<Preset, Preset::vocab>(world, o, text, std::move(place));
  if constexpr (requires { requires Preset::any_text; })
    if (vocab <= 256) return train_with<Preset, 256>(world, o, text, std::move(place));
  throw options::Failure(4, "the text has " + std::to_string(vocab) + " different tokens, preset " +
                                Preset::name +
                                " fewer: use another preset or text, or examples/for_model.sh "
                                "--type '" +
                                type_for<Preset>(vocab) + "' train ...");
}

// The options that a recipe has values for.
inline std::map<std::string, std::string> as_options(const Recipe& recipe) {
  const auto text = [](double x) {
    char digits[32];
    return std::string(digits, std::to_chars(digits, digits + sizeof digits, x).ptr);
  };
  return {{"batch", std::to_string(recipe.batch.batch)},
          {"length", std::to_string(recipe.batch.length)},
          {"lr", text(recipe.learning_rate)},
          {"warmup", std::to_string(recipe.warmup)},
          {"capacity", text(recipe.options.capacity_factor)}};
}

inline std::string model_of(const std::filesystem::path& checkpoint) {
  return (checkpoint / checkpoint::files[0]).string();
}

// What can be done with a run all of whose checkpoints are damaged.
inline options::Failure without_checkpoint(const RunDirectory& run) {
  const std::string there = run.path().string() + " has no valid checkpoint, so it cannot go on";
  try {
    const std::string model = run.model().string();
    if (std::filesystem::exists(model)) {
      read_safetensors(model);
      return {1, there + ". Its model at the end is there: generate --model " + model +
                     " uses it, train --run OTHER --from " + model +
                     " trains it further, without its moments"};
    }
  } catch (const std::exception&) {  // damaged, too
  }
  return {1, there + ": begin it anew, in another directory, or here with --run " + run.path().string() +
                 " --overwrite"};
}

// A run whose preset this program does not have. checkpoint: may be empty.
inline options::Failure of_another_program(const std::string& run, const std::filesystem::path& checkpoint,
                                           const std::string& preset) {
  if (preset != "given")
    return {2, run + " holds a run of preset " + shown(preset) + ", which this program does not have"};
  std::string type = "TYPE";  // that the run was begun with
  if (!checkpoint.empty()) type = to_text(parse_type(model_text(model_of(checkpoint))));
  return {2, run + " holds a model of type " + type + ": examples/for_model.sh --type '" + type +
                 "' train --resume " + run + " goes on with it"};
}

// The run of --resume, open, and its newest checkpoint.
inline Place opened(const Options& o) {
  Place place;
  place.directory = usage([&] { return RunDirectory::open(o.resume); });
  if (!place.directory->repaired().empty())
    std::fprintf(stderr, "warning: %s\n", place.directory->repaired().c_str());
  const NewestCheckpoint newest = newest_checkpoint(place.directory->checkpoints());
  for (const std::string& reason : newest.rejected) std::fprintf(stderr, "not used: %s\n", reason.c_str());
  if (newest.path.empty() && !newest.rejected.empty()) throw without_checkpoint(*place.directory);
  place.checkpoint = newest.path;
  return place;
}

// Opens the run of --resume, and takes its options.
template <class... Presets>
Place resumed(World& world, CLI::App& app, int argc, char** argv, Options& o) {
  Place place;
  if (world.is_first()) place = opened(o);
  place.checkpoint = world.of_first(place.checkpoint.string());
  const auto kept =
      place.checkpoint.empty()
          ? run_directory::read_manifest(std::filesystem::path(o.resume) / run_directory::manifest).options
          : read_training_state(place.checkpoint).options;
  if (const auto preset = kept.find("preset");
      preset != kept.end() && ((preset->second != Presets::name) && ...))
    throw of_another_program(o.resume, place.checkpoint, preset->second);
  std::map<std::string, std::string> of_preset;
  if (const auto preset = kept.find("preset"); preset != kept.end())
    (void)((preset->second == Presets::name && (of_preset = as_options(Presets::recipe()), true)) || ...);
  add_kept_options(app, argc, argv, kept, of_preset, o.resume);
  return place;
}

template <class... Presets>
int train_as(World& world, CLI::App& app, int argc, char** argv, Options& o) {
  Place place;
  o.silent = !world.is_first();
  if (!o.resume.empty()) place = resumed<Presets...>(world, app, argc, argv, o);
  if (world.is_first()) {
    if (!o.run.empty()) usage([&] { return RunDirectory::check_may_create(o.run, o.overwrite); });
    if (!o.save.empty()) check_can_write(o.save);  // before training
  }
  place.kept = kept_options(app);
  if (o.tokenizer == "auto" && !o.from.empty()) o.tokenizer = o.from;
  if (is_file(o.tokenizer) && !place.checkpoint.empty()) o.tokenizer = model_of(place.checkpoint);
  const Text text = read_text(o);
  int status = 0;
  (void)((o.preset == Presets::name && (status = train<Presets>(world, o, text, std::move(place)), true)) ||
         ...);
  return status;
}

template <class... Presets>
int program(int argc, char** argv) {
  return World::main(argc, argv, [&](World& world) {
    CLI::App app("Trains a GPT with mixtures of experts on a text. Without --run and --save it is not kept",
                 "train");
    Options o;
    declare(app, o, {Presets::name...});
    world.declare(app);
    return world.run(app, argc, argv, [&] { return train_as<Presets...>(world, app, argc, argv, o); });
  });
}

}  // namespace training
