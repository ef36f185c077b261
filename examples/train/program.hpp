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
int train_with(const Options& o, const Text& text, Place place) {
  const auto trainer = usage([&] { return std::make_unique<Trainer<Preset, V>>(o, text, std::move(place)); });
  return trainer->run();
}
template <class Preset>
int train(const Options& o, const Text& text, Place place) {
  if (text.tokenizer.vocab() <= Preset::vocab)
    return train_with<Preset, Preset::vocab>(o, text, std::move(place));
  if constexpr (requires { requires Preset::any_text; })
    return train_with<Preset, 256>(o, text, std::move(place));
  throw options::Failure(4, std::string("preset ") + Preset::name + " has " + std::to_string(Preset::vocab) +
                                " tokens, this text " + std::to_string(text.tokenizer.vocab()) +
                                ": use another preset, or another text");
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
          {"capacity", text(recipe.options.capacity_factor)}};
}

// A run whose preset this program does not have. checkpoint: may be empty.
inline options::Failure of_another_program(const std::string& run, const std::filesystem::path& checkpoint,
                                           const std::string& preset) {
  if (preset != "given")
    return {2, run + " holds a run of preset " + shown(preset) + ", which this program does not have"};
  std::string type = "TYPE";  // that the run was begun with
  if (!checkpoint.empty())
    type = to_text(parse_type(model_text((checkpoint / "model.safetensors").string())));
  return {2, run + " holds a model of type " + type + ": examples/for_model.sh --type '" + type +
                 "' train --resume " + run + " goes on with it"};
}

// Opens the run of --resume, and takes its options.
template <class... Presets>
inline Place resumed(CLI::App& app, int argc, char** argv, Options& o) {
  Place place;
  place.directory = usage([&] { return RunDirectory::open(o.resume); });
  const NewestCheckpoint newest = newest_checkpoint(place.directory->checkpoints());
  for (const std::string& reason : newest.rejected) std::fprintf(stderr, "not used: %s\n", reason.c_str());
  if (newest.path.empty() && !newest.rejected.empty())
    throw options::Failure(1,
                           o.resume + " has no valid checkpoint: begin it anew with --run DIR --overwrite");
  place.checkpoint = newest.path;
  const auto kept =
      newest.path.empty() ? place.directory->manifest().options : read_training_state(newest.path).options;
  if (const auto preset = kept.find("preset");
      preset != kept.end() && ((preset->second != Presets::name) && ...))
    throw of_another_program(o.resume, newest.path, preset->second);
  std::map<std::string, std::string> of_preset;
  if (const auto preset = kept.find("preset"); preset != kept.end())
    (void)((preset->second == Presets::name && (of_preset = as_options(Presets::recipe()), true)) || ...);
  add_kept_options(app, argc, argv, kept, of_preset, o.resume);
  return place;
}

template <class... Presets>
int program(int argc, char** argv) {
  CLI::App app("Trains a GPT with mixtures of experts on a text. Without --run and --save it is not kept",
               "train");
  Options o;
  declare(app, o, {Presets::name...});
  return options::run(app, argc, argv, [&] {
    Place place;
    if (!o.resume.empty()) place = resumed<Presets...>(app, argc, argv, o);
    if (!o.run.empty()) usage([&] { return RunDirectory::check_may_create(o.run, o.overwrite); });
    place.kept = kept_options(app);
    if (!o.save.empty()) check_can_write(o.save);  // before training
    const Text text = read_text(o);
    int status = 0;
    (void)((o.preset == Presets::name && (status = train<Presets>(o, text, std::move(place)), true)) || ...);
    return status;
  });
}

}  // namespace training
