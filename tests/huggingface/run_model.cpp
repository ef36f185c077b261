// run_model float|double DIRECTORY OUT.safetensors
#include "run_model.hpp"

#include <cstdio>

using namespace moegpt;

namespace {

constexpr Config window_in_one_layer = [] {
  Config c = huggingface_models::small_qwen3;
  c.window = 16, c.window_at = {1};
  return c;
}();

template <class T, class F>
void with_model(const std::filesystem::path& directory, F&& f) {
  if (read_huggingface_config(directory).config.window > 0)
    return f.template operator()<GPT<window_in_one_layer, Dense, T>>();
  huggingface_models::with_model<T>(directory, f);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    const std::string family = read_huggingface_config(argv[2]).family;
    const auto run = [&]<class Model>() { huggingface_models::run<Model>(argv[2], argv[3]); };
    if (std::string_view(argv[1]) == "double")
      with_model<double>(argv[2], run);
    else
      with_model<float>(argv[2], run);
    // What is exported is what was imported.
    const auto again = [&]<class Model>() {
      Model model;
      load_huggingface(argv[2], model);
      save_huggingface(std::filesystem::path(argv[2]) / "exported", model, family, {.shard_bytes = 20000});
    };
    with_model<float>(argv[2], again);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run_model: %s\n", error.what());
    return 1;
  }
}
