#pragma once
// The models of `train`, each a type and a training configuration.
#include <moegpt/moegpt.hpp>

namespace training {
using namespace moegpt;

struct Recipe {
  Shape batch;
  int steps;
  double learning_rate, final_rate;  // equal: constant
  int warmup;
  AdamOptions adam;
  double clip;  // of the gradient's norm; 0: none
  Objective objective;
  ModelOptions options;
  Init init;
  bool noisy_evaluation;  // routers keep their noise in evaluation and generation
};

// makeMoE (github.com/AviSoori1x/makeMoE), with its peculiarities: those of the library's preset, noise in
// evaluation, weight decay of every tensor.
struct MakeMoE {
  static constexpr const char* name = "makemoe";
  static constexpr int vocab = 65;
  template <int V = vocab>
  using Model = presets::ModelOf<
      presets::makemoe<presets::Extents{.vocab = V, .context = 32, .dim = 128, .layers = 8, .heads = 8}>>;
  static Recipe recipe() {
    return {.batch = {16, 32},
            .steps = 5000,
            .learning_rate = 1e-3,
            .final_rate = 1e-3,
            .warmup = 0,
            .adam = {.weight_decay = 0.01},
            .clip = 0,
            .objective = presets::makemoe<>::objective(),
            .options = presets::makemoe<>::options(),
            .init = presets::makemoe<>::init,
            .noisy_evaluation = true};
  }
};

// The default: chosen for a low loss after a few minutes on two cores.
struct Small {
  static constexpr const char* name = "small";
  static constexpr int vocab = 96;
  static constexpr bool any_text = true;  // a text with more tokens has a vocabulary of 256
  template <int V = vocab>
  using Model = GPT<Config{.vocab = V,
                           .context = 128,
                           .dim = 128,
                           .layers = 4,
                           .heads = 4,
                           .hidden = 256,
                           .norm = Norm::rms,
                           .positions = Positions::rotary,
                           .activation = Activation::silu,
                           .gated = true,
                           .output_bias = false,
                           .expert_bias = false},
                    TopKRouter<8, 2>>;
  static Recipe recipe() {
    return {.batch = {8, 128},
            .steps = 3000,
            .learning_rate = 3e-3,
            .final_rate = 1e-4,
            .warmup = 50,
            .adam = {.beta2 = 0.95, .weight_decay = 0.1, .decay_of = DecayOf::matrices},
            .clip = 1,
            .objective = {.dropout = 0.1, .balance = 0.01},
            .options = {},
            .init = Init::gpt2,
            .noisy_evaluation = false};
  }
};

}  // namespace training
