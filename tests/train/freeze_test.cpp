#include <moegpt/model/gpt.hpp>
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/train/adam.hpp>
#include <moegpt/train/clip.hpp>
#include <moegpt/train/freeze.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <memory>

using namespace moegpt;

namespace {

constexpr Config plain{.vocab = 7,
                       .context = 5,
                       .dim = 8,
                       .layers = 2,
                       .heads = 2,
                       .hidden = 5,
                       .attention_bias = true,
                       .head_bias = true,
                       .dense_first = 1};
constexpr Config modern = [] {
  Config c{.vocab = 7, .context = 5, .dim = 8, .layers = 1, .heads = 2, .hidden = 3};
  c.norm = Norm::rms, c.positions = Positions::rotary, c.gated = true, c.output_bias = false, c.tied = true;
  return c;
}();
using Plain = GPT<plain, NoisyTopKRouter<3, 2, NoisyTopK{.bias = true}>>;
using Modern =
    GPT<modern,
        SharedExperts<Masked<HierarchicalRouter<TopKRouter<2, 1>, TopKRouter<2, 1>>, 2>, 1, Shared::gated>>;

// One step from the same start, with some weights frozen.
template <class Model>
struct Step {
  std::unique_ptr<Model> model = std::make_unique<Model>(), before, grad = std::make_unique<Model>();
  template <class Freeze>
  explicit Step(Freeze&& freeze_some) {
    draw_weights(*model, 1);
    before = std::make_unique<Model>(*model);
    const Batch batch{{2, 5}, {1, 2, 3, 4, 5, 6, 0, 1, 2, 3}, {2, 3, 4, 5, 6, 0, 1, 2, 3, 4}};
    typename Model::Workspace work(batch.shape, {}, {.dropout = 0.1, .balance = 0.1, .z = 0.1});
    work.task = 1;
    freeze_some(*grad);
    model->forward(batch, work, Key{2});
    set_zero(*grad, Exec{});
    model->backward(batch, work, *grad);
    global_norm(*grad);
    Adam<Model>({.learning_rate = 0.01}).step(*model, *grad);
  }
};

template <class Model>
std::vector<std::string> paths_of(const Model& model) {
  std::vector<std::string> paths;
  for_each_named_weight([&](const std::string& path, Kind, const auto&) { paths.push_back(path); }, model);
  return paths;
}

// Every weight by itself is frozen: it keeps its bits over a step, and all others make the step they would
// have made.
template <class Model>
void freeze_each() {
  const Step<Model> all([](Model&) {});
  for (const std::string& frozen : paths_of(*all.model)) {
    const Step<Model> step([&](Model& grad) { freeze(grad, frozen); });
    CAPTURE(frozen);
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto& w, const auto& start, const auto& expected,
            const auto& g, const auto& g_expected) {
          CAPTURE(path);
          const bool is_frozen = path == frozen;
          CHECK(g.empty() == is_frozen);
          CHECK(same_bits(w.data(), is_frozen ? start.data() : expected.data(), w.size()));
          if (!is_frozen) CHECK(same_bits(g.data(), g_expected.data(), g.size()));
        },
        std::as_const(*step.model), std::as_const(*step.before), std::as_const(*all.model),
        std::as_const(*step.grad), std::as_const(*all.grad));
  }
}

int held(const auto& tree) {
  int held = 0;
  for_each_weight([&](const auto& w) { held += !w.empty(); }, tree);
  return held;
}

}  // namespace

TEST_CASE(
    "a frozen weight keeps its bits over a step and changes no other's, whichever it is: embeddings, norms, "
    "attention and its biases, a dense layer, experts, a noisy router, the head") {
  freeze_each<Plain>();
}
TEST_CASE(
    "a frozen weight keeps its bits over a step and changes no other's, whichever it is: a tied head, "
    "RMSNorm, "
    "gated experts, two levels of routers, masks, shared experts and their gate") {
  freeze_each<Modern>();
}

TEST_CASE("a step moves every weight that is reached, so that the tests of frozen ones can fail") {
  const Step<Plain> all([](Plain&) {});
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w, const auto& start) {
        CAPTURE(path);
        CHECK_FALSE(same_bits(w.data(), start.data(), w.size()));
      },
      std::as_const(*all.model), std::as_const(*all.before));
}

TEST_CASE("a pattern names a weight, what contains it, and with a star anything") {
  const std::string_view path = "blocks.10.moe.experts.1.up.weight";
  for (const char* pattern : {"blocks.10.moe.experts.1.up.weight", "blocks.10", "blocks", "*", "*.experts.1",
                              "blocks.*.moe", "*.up", "blocks.*.up.weight", "*weight", "blocks.1*.moe"})
    CHECK(path_matches(pattern, path));
  for (const char* pattern : {"", "blocks.1", "block", "blocks.", "moe", "*.experts.10", "*.down",
                              "*.up.bias", "blocks.10.moe.experts.1.up.weight.0", "blocks.*.attention"})
    CHECK_FALSE(path_matches(pattern, path));
}

TEST_CASE("freeze_all_but, freeze_experts and unfreeze release and allocate the weights that match") {
  const auto owned = std::make_unique<Plain>();
  Plain& grad = *owned;
  const int all = held(grad);
  freeze_experts(grad, {0, 2});
  CHECK(all - held(grad) == 2 * 4);
  CHECK(held(grad.trunk.blocks.second[0].mixture.experts[1]) == 4);
  CHECK(held(grad.trunk.blocks.second[0].mixture.experts[2]) == 0);
  freeze(grad, "head");
  freeze_all_but(grad, {"*.router", "head.bias"});  // which is wanted again
  CHECK(held(grad) == 4 + 1);
  CHECK(held(grad.trunk.blocks.second[0].mixture.router) == 4);
  unfreeze(grad, {"*.experts.1", "norm"});
  CHECK(held(grad) == 5 + 4 + 2);
  unfreeze(grad);
  CHECK(held(grad) == all);
  CHECK(global_norm(grad) == 0);
}

TEST_CASE("freeze_all_but_adapters keeps adapters and what a further pattern names") {
  struct Two {
    AdaptedLinear<3, 2, 1> first;
    std::array<Linear<2, 2>, 2> experts;
    static constexpr auto fields() {
      return Fields{Field{"first", &Two::first}, Field{"experts", &Two::experts}};
    }
  } grad;
  freeze_all_but_adapters(grad);
  CHECK(held(grad) == 2);
  CHECK(held(grad.first.adapter) == 2);
  freeze_all_but_adapters(grad, "*experts.1");
  CHECK(held(grad) == 4);
  CHECK(held(grad.experts[1]) == 2);
  CHECK(refusal([&] { freeze_all_but_adapters(grad.experts[0]); }).find("*.adapter") != std::string::npos);
}

// New experts on a frozen model: experts 2 and up and the head are new; the others and all else are frozen.
TEST_CASE("new experts and the head train on a frozen model, under allowed experts and a selection bias") {
  constexpr Config config{.vocab = 7, .context = 6, .dim = 8, .layers = 2, .heads = 2, .hidden = 5};
  using Model = GPT<config, TopKRouter<4, 2, TopK{.selection_bias = true}>>;
  const auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  draw_weights(*model, 1, 0.3);
  for (auto& block : model->trunk.blocks.second) {
    block.mixture.router.selection_bias.memory().fill(0);
    for (const Index expert : {2, 3}) block.mixture.router.selection_bias[expert] = 2;
  }
  const auto before = std::make_unique<Model>(*model);
  freeze_all_but(*grad, {"*.experts.2", "*.experts.3", "head"});
  const Index trained = count_weights(*grad);
  CHECK(trained == 7 * 8 + 2 * 2 * (2 * 8 * 5 + 5 + 8));
  Adam<Model> adam({.learning_rate = 0.02}, *grad);
  CHECK(count_weights(adam) == 2 * trained);
  const Batch batch{{2, 5}, {1, 2, 3, 4, 5, 6, 0, 1, 2, 3}, {2, 3, 4, 5, 6, 0, 1, 2, 3, 4}};
  Model::Workspace work(batch.shape);
  const bool allowed[4] = {true, false, true, true};  // expert 1 is old and not used
  work.allowed = allowed;
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    last = model->forward(batch, work).cross_entropy;
    if (step == 0) first = last;
    set_zero(*grad);
    model->backward(batch, work, *grad);
    adam.step(*model, *grad);
  }
  CHECK(last < 0.8 * first);
  CHECK(count_weights(adam) == 2 * trained);
  CHECK(work.tape.trunk.blocks.second[0].mixture.plan.load(2) > 0);
  CHECK(work.tape.trunk.blocks.second[0].mixture.plan.load(1) == 0);
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w, const auto& old, const auto& g) {
        CAPTURE(path);
        if (g.empty()) CHECK(same_bits(w.data(), old.data(), w.size()));
        if (path == "head.weight") CHECK_FALSE(same_bits(w.data(), old.data(), w.size()));
      },
      std::as_const(*model), std::as_const(*before), std::as_const(*grad));
}

TEST_CASE("experts are frozen by their whole number") {
  MoELayer<TopKRouter<12, 1>, Expert<2, 3>> grad;
  for (const int frozen : {1, 11}) {
    unfreeze(grad);
    freeze_experts(grad, {frozen});
    for (int e = 0; e < 12; ++e)
      CHECK((held(grad.experts[static_cast<std::size_t>(e)]) == 0) == (e == frozen));
  }
}

TEST_CASE("a pattern that matches nothing is rejected") {
  const auto grad = std::make_unique<Plain>();
  CHECK(refusal([&] { freeze(*grad, "*.ruoter"); }).find("no weight is named by \"*.ruoter\"") !=
        std::string::npos);
  CHECK_FALSE(refusal([&] { freeze_experts(*grad, {3}); }).empty());
  CHECK_FALSE(refusal([&] { freeze_all_but(*grad, {"head", "*.experts.7"}); }).empty());
  CHECK(held(grad->head) == 2);  // and nothing was frozen
}
