// A program that looks for the origin of a NaN lets the processor stop where one is born. A step gives no
// false alarm: lanes beyond the end of a row, and results that a mask leaves out, are computed of numbers
// that cause none.
#include <moegpt/io/model_file.hpp>
#include <moegpt/moegpt.hpp>

#include "support.hpp"

#if defined(__GLIBC__) && !defined(__clang__)  // clang computes what it does not use, unless told otherwise
#include <cfenv>

namespace {

// While one lives, this thread stops at a division by zero, an invalid operation or an overflow.
struct Traps {
  explicit Traps(bool wanted) {
    std::feclearexcept(FE_ALL_EXCEPT);
    if (wanted) ::feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW);
  }
  ~Traps() {
    ::fedisableexcept(FE_ALL_EXCEPT);
    std::feclearexcept(FE_ALL_EXCEPT);
  }
};

// Weights after two steps with noise, dropout and all losses; `said` is a forward without noise and what is
// generated.
template <class Model>
std::unique_ptr<Model> trained(bool traps, double spread, const bool* allowed, std::vector<double>& said) {
  auto model = random_model<Model>(1, spread), grad = std::make_unique<Model>();
  Adam<Model> adam{{.learning_rate = 1e-2}};
  const Shape shape{3, Model::config.context};
  typename Model::Workspace work{
      shape, Exec{}, {.dropout = 0.2, .balance = 0.1, .z = 0.1, .importance = 0.1, .load = 0.1}};
  work.allowed = allowed;
  Batch batch = random_batch(shape, Model::config.vocab, 2);
  batch.targets[0] = -1;
  const Traps stop(traps);
  for (int step = 0; step < 2; ++step) {
    model->forward(batch, work, Key{3}.with(Purpose::step, step));
    set_zero(*grad);
    model->backward(batch, work, *grad);
    adam.step(*model, *grad, work.exec, clip_scale(global_norm(*grad), 1.0));
  }
  said.push_back(model->forward(batch, work).cross_entropy);
  if constexpr (Model::config.mask == Mask::causal) {
    Generator<Model> draw(*model, {.temperature = 0.7, .top_k = 3, .top_p = 0.9}, Rng(Key{4}));
    for (int i = 0; i < Model::config.context + 2; ++i) said.push_back(draw.next(i % 5));
  }
  return model;
}

// The same bits with traps, with small weights and with some so large that exponentials meet their ends.
template <class Model>
void examine(const bool* allowed = nullptr) {
  for (const double spread : {0.4, 20.0}) {
    CAPTURE(to_text<Model>(), spread);
    std::vector<double> said, said_with_traps;
    const auto usual = trained<Model>(false, spread, allowed, said);
    const auto with_traps = trained<Model>(true, spread, allowed, said_with_traps);
    CHECK(first_difference(*usual, *with_traps) == "");
    CHECK(said == said_with_traps);
    for (const double number : said) CHECK(std::isfinite(number));
  }
}

constexpr Config sized(int vocab, int dim, int heads, int hidden, int context = 9) {
  return {.vocab = vocab, .context = context, .dim = dim, .layers = 2, .heads = heads, .hidden = hidden};
}
constexpr Config with(Config config, Activation activation, bool gated = false) {
  config.activation = activation;
  config.gated = gated;
  return config;
}
constexpr Config rotary(Config config) {
  config.norm = Norm::rms, config.positions = Positions::rotary;
  return config;
}
constexpr Config encoder(Config config) {
  config.mask = Mask::full, config.residual = Residual::post_norm;
  return config;
}
constexpr Config odd = sized(65, 14, 2, 11), even = sized(64, 16, 2, 16, 16);

}  // namespace

TEST_CASE("a step with odd or even extents divides by no zero and makes no NaN on the way") {
  examine<GPT<odd, TopKRouter<5, 2>>>();
  examine<GPT<even, TopKRouter<8, 2>, double>>();
  examine<GPT<sized(7, 6, 3, 5, 70), NoisyTopKRouter<3, 2>>>();
  examine<GPT<odd, NoisyTopKRouter<5, 2>, double>>();
}
TEST_CASE("no activation raises an exception of the processor") {
  examine<GPT<with(odd, Activation::gelu_erf), TopKRouter<3, 1>>>();
  examine<GPT<with(odd, Activation::relu), TopKRouter<3, 1>>>();
  examine<GPT<with(odd, Activation::tanh), TopKRouter<3, 1>, double>>();
  examine<GPT<rotary(with(sized(65, 12, 2, 11), Activation::silu, true)), TopKRouter<3, 1>>>();
}
TEST_CASE("no router and no kind of mixture raises an exception of the processor") {
  examine<GPT<odd, CosineRouter<5, 2, 7>>>();
  examine<GPT<odd, TopPRouter<5, 3>>>();
  examine<GPT<odd, GShardRouter<5>>>();
  examine<GPT<odd, SigmoidRouter<6, 2, Sigmoid{.selection_bias = true, .groups = 2, .groups_kept = 1}>>>();
  examine<GPT<odd, HierarchicalRouter<TopKRouter<3, 2>, NoisyTopKRouter<3, 2>>>>();
  examine<GPT<encoder(odd), SoftMoE<3, 2>>>();
  examine<GPT<encoder(odd), ExpertChoiceRouter<3>>>();
}
TEST_CASE("a mask of minus infinities raises no exception of the processor") {
  const bool some[5] = {true, false, true, true, false};
  examine<GPT<odd, TopKRouter<5, 2>>>(some);
  examine<GPT<odd, NoisyTopKRouter<5, 2>>>(some);
  examine<GPT<odd, SharedExperts<Masked<TopKRouter<5, 2>>, 1, Shared::gated>>>(some);
}
#endif
