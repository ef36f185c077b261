// `train` with a model so small that a test can train it often.
#include "../../examples/train/program.hpp"

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
};

}  // namespace training

int main(int argc, char** argv) { return training::program<training::Tiny>(argc, argv); }
