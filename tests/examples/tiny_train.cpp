// `train` with a model so small that a test can train it often. PLANT="weight NAME STEP" or "gradient
// NAME STEP" sets a number of this tensor to NaN in the step after STEP steps, "spoilt NAME STEP" a weight to
// 10,000 in this and all later steps. NAME "?": all names are listed.
#include "../../examples/train/program.hpp"

#include <sstream>

namespace training {

struct Tiny {
  static constexpr const char* name = "tiny";
  static constexpr int vocab = 256;
  template <int V = vocab>
  using Model =
      GPT<Config{
              .vocab = V, .context = 16, .dim = 8, .layers = 2, .heads = 2, .hidden = 16, .norm = Norm::rms},
          NoisyTopKRouter<4, 2>>;
  static Recipe recipe() {
    return {.batch = {4, 16},
            .steps = 40,
            .learning_rate = 1e-2,
            .final_rate = 1e-3,
            .warmup = 5,
            .adam = {.weight_decay = 0.1},
            .clip = 1,
            .objective = {.dropout = 0.1, .balance = 0.01},
            .options = {},
            .init = Init::gpt2,
            .noisy_evaluation = false};
  }
  template <class M>
  static void before_update(M& model, M& grad, Index step) {
    const char* plan = std::getenv("PLANT");
    if (!plan) return;
    std::istringstream words(plan);
    std::string what, name;
    Index when = 0;
    words >> what >> name >> when;
    if (what == "spoilt" ? step < when : step != when) return;
    const auto plant = [&](const std::string& path, Kind, auto& weight) {
      if (weight.size() == 0) return;
      if (name == "?") std::fprintf(stderr, "tensor %s\n", path.c_str());
      if (name == path) weight.data()[weight.size() / 2] = what == "spoilt" ? 1e4f : std::nanf("");
    };
    for_each_named_weight(plant, what == "gradient" ? grad : model);
  }
};

}  // namespace training

int main(int argc, char** argv) { return training::program<training::Tiny>(argc, argv); }
