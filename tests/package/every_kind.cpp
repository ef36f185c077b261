// Models of every kind, in float and double: training, intermediates, saving, loading, generation. Compiled
// with warnings as errors, headers included, as in a program that uses -I for moegpt. Prints 0 faults when
// run.
#include <moegpt/io.hpp>
#include <moegpt/testing/gradcheck.hpp>
#include <moegpt/testing/leak.hpp>

#include <cstdio>
#include <memory>

using namespace moegpt;

namespace {

constexpr Config plain{.vocab = 17, .context = 8, .dim = 10, .layers = 2, .heads = 2, .hidden = 6};
constexpr Config modern{.vocab = 17,
                        .context = 8,
                        .dim = 12,
                        .layers = 3,
                        .heads = 3,
                        .kv_heads = 1,
                        .hidden = 6,
                        .norm = Norm::rms,
                        .positions = Positions::rotary,
                        .activation = Activation::silu,
                        .gated = true,
                        .output_bias = false,
                        .expert_bias = false,
                        .tied = true,
                        .moe_every = 2};
constexpr Config encoder{.vocab = 17,
                         .context = 8,
                         .dim = 10,
                         .layers = 2,
                         .heads = 2,
                         .hidden = 6,
                         .mask = Mask::full,
                         .residual = Residual::post_norm,
                         .activation = Activation::gelu_erf,
                         .attention_bias = true,
                         .head_bias = true};
constexpr Config bare{.vocab = 17,
                      .context = 8,
                      .dim = 10,
                      .layers = 2,
                      .heads = 2,
                      .hidden = 6,
                      .residual = Residual::no_norm,
                      .activation = Activation::relu};

template <class Model>
int examine() {
  using T = typename Model::Scalar;
  auto model = std::make_unique<Model>(), grad = std::make_unique<Model>(), read = std::make_unique<Model>();
  const Key seed{1};
  init(*model, seed);
  const Tokenizer tokenizer = Tokenizer::characters("abcdefghijklmnop\n");
  std::vector<int> text;
  for (int i = 0; i < 200; ++i) text.push_back(i * i % 17);
  Adam<Model> adam{{.learning_rate = 1e-3}};
  typename Model::Workspace work{
      {.batch = 2, .length = 8}, Exec{.threads = 2}, {.dropout = 0.1, .balance = 0.01, .z = 0.01}};
  Batch batch{work.shape};
  double loss = 0;
  for (int step = 0; step < 2; ++step) {
    sample_batch(text, batch, seed.with(Purpose::batch, step));
    loss = model->forward(batch, work, seed.with(Purpose::step, step)).cross_entropy;
    balance_selection(*model, work, 1e-3);
    update_thresholds(*model, work, 0.1);
    set_zero(*grad);
    model->backward(batch, work, *grad);
    adam.step(*model, *grad, work.exec, clip_scale(global_norm(*grad, work.exec), 1.0));
  }
  RoutingStatistics<Model> seen;
  loss = model->forward(batch, work).cross_entropy;
  seen.add(*model, work);
  std::size_t size = bars(expert_load<Model>(work)).size();
  size += to_json(intermediates(*model, work, {.expert_outputs = true})).size();
  size += evaluate(*model, text, work) > 0;
  freeze(*grad, "*experts*");
  if constexpr (Model::config.mask == Mask::causal) {
    size += generate(*model, tokenizer, "abc",
                     {.tokens = 4, .sampling = {.temperature = 0.8, .top_k = 5, .top_p = 0.9}})
                .size();
    size += beam_search(*model, text, {.beams = 2, .tokens = 3}).size();
  }

  save("model.safetensors", *model, tokenizer);
  Tokenizer same;
  load("model.safetensors", *read, same);
  const bool ok = size > 0 && read->forward(batch, work).cross_entropy == loss;
  if (!ok)
    std::printf("not read back in %d bytes: %s\n", static_cast<int>(sizeof(T)), to_text<Model>().c_str());
  return ok ? 0 : 1;
}
template <Config config, class... Recipe>
int examine_each() {
  return (0 + ... + (examine<GPT<config, Recipe, float>>() + examine<GPT<config, Recipe, double>>()));
}

}  // namespace

int main() {
  using Biased = SigmoidRouter<4, 2, Sigmoid{.selection_bias = true, .groups = 2, .groups_kept = 1}>;
  int faults =
      examine_each<plain, TopKRouter<4, 2>, NoisyTopKRouter<4, 2>,
                   Dropping<TopKRouter<4, 2>, Drop::probability, Group::position>, GShardRouter<4>,
                   HashRouter<4, 2>, TopPRouter<4, 2>, AllExperts<4>, InputJitter<TopKRouter<4, 1>>,
                   CosineRouter<4, 2, 8>, HierarchicalRouter<TopKRouter<2, 1>, NoisyTopKRouter<3, 2>>,
                   SharedExperts<Masked<TopKRouter<4, 2>, 2>, 2, Shared::gated>,
                   WithSharedProjection<TopKRouter<4, 2>, 6, Activation::tanh>>();
  faults += examine_each<modern, Biased, SharedExperts<Biased>>();
  faults += examine_each<encoder, ExpertChoiceRouter<4>,
                         ExpertChoiceRouter<4, 2, ExpertChoice{.thresholds = true}>, SoftMoE<3, 2>>();
  faults += examine_each<bare, TopKRouter<4, 2>>();
  const GradcheckReport report =
      gradcheck<GPT<plain, TopKRouter<4, 2>, double>>({.pass = {.shape = {1, 3}}, .per_tensor = 2});
  if (!report.ok) ++faults;
  if (find_leak<GPT<plain, TopKRouter<4, 2>>>({}).text() != "no leak") ++faults;
  constexpr BuildInfo build = build_info();
  std::printf("moegpt %s, %s, %s OpenMP\n", build.version, build.simd, build.openmp ? "with" : "without");
  return faults;
}
