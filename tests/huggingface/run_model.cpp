// run_model float|double DIRECTORY OUT.safetensors
#include "run_model.hpp"

#include <cstdio>

using namespace moegpt;

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    const std::string family = read_huggingface_config(argv[2]).family;
    const auto run = [&]<class Model>() { huggingface_models::run<Model>(argv[2], argv[3]); };
    if (std::string_view(argv[1]) == "double")
      huggingface_models::with_model<double>(argv[2], run);
    else
      huggingface_models::with_model<float>(argv[2], run);
    // What is exported is what was imported.
    const auto again = [&]<class Model>() {
      Model model;
      load_huggingface(argv[2], model);
      save_huggingface(std::filesystem::path(argv[2]) / "exported", model, family, {.shard_bytes = 20000});
    };
    huggingface_models::with_model<float>(argv[2], again);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run_model: %s\n", error.what());
    return 1;
  }
}
