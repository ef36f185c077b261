#include <moegpt/moegpt.hpp>
#include <moegpt/testing/leak.hpp>

#include "support/catch.hpp"

#include <tuple>

using namespace moegpt;

namespace {

constexpr Config plain{.vocab = 11, .context = 8, .dim = 8, .layers = 2, .heads = 2, .hidden = 8};
constexpr Config modern{.vocab = 11,
                        .context = 8,
                        .dim = 8,
                        .layers = 3,
                        .heads = 4,
                        .kv_heads = 2,
                        .hidden = 8,
                        .norm = Norm::rms,
                        .positions = Positions::rotary,
                        .activation = Activation::silu,
                        .gated = true,
                        .tied = true,
                        .dense_first = 1};
constexpr Config post_norm{.vocab = 11,
                           .context = 8,
                           .dim = 8,
                           .layers = 2,
                           .heads = 2,
                           .hidden = 8,
                           .residual = Residual::post_norm,
                           .mixture_at = {1}};
constexpr Config no_norm{
    .vocab = 11, .context = 8, .dim = 8, .layers = 2, .heads = 2, .hidden = 8, .residual = Residual::no_norm};
using Top = TopKRouter<4, 2>;

// Decoders that must not leak under any option, one line each.
using Causal = std::tuple<
    GPT<plain, Dense>, GPT<plain, Top>, GPT<modern, Top>, GPT<plain, TopKRouter<4, 1>>,
    GPT<plain, TopKRouter<4, 4, TopK{.gates = Gates::probability, .bias = true}>>,
    GPT<plain, NoisyTopKRouter<4, 2, NoisyTopK{.bias = true}>>, GPT<post_norm, Top>, GPT<no_norm, Top>,
    GPT<plain, TopKRouterWith<4, 2, PNormGates<2>>>,
    GPT<modern, SharedExperts<SigmoidRouter<4, 2, Sigmoid{.groups = 2, .groups_kept = 1}>, 1, Shared::gated>>,
    GPT<plain, TopPRouter<4, 3>>, GPT<plain, GShardRouter<4>>, GPT<plain, CosineRouter<4, 2, 4>>,
    GPT<plain, InputJitter<Top>>, GPT<plain, AllExperts<4>>, GPT<plain, HashRouter<4, 2>>,
    GPT<plain, Masked<Top>>, GPT<plain, HierarchicalRouter<TopKRouter<2, 1>, Top>>,
    GPT<plain, WithSharedProjection<AllExperts<4>, 6, Activation::relu>>,
    GPT<plain, Dropping<Top, Drop::token_order, Group::sequence>>,
    GPT<modern, Dropping<Top, Drop::slot_major, Group::position, Round::up>>,
    GPT<plain, Dropping<Top, Drop::batch_prioritised, Group::position>>,
    GPT<plain, Dropping<Top, Drop::probability, Group::position>>,
    GPT<plain, ExpertChoiceRouter<4, 2, ExpertChoice{.group = Group::position}>>>;

// Decoders that leak as soon as experts are contested, one line each.
using Leaking =
    std::tuple<GPT<plain, AllowNonCausal<ExpertChoiceRouter<4, 2>>>,
               GPT<plain, AllowNonCausal<SoftMoE<4, 2>>>,
               GPT<plain, AllowNonCausal<Masked<ExpertChoiceRouter<4, 2>>>>,
               GPT<modern, AllowNonCausal<ExpertChoiceRouter<4, 1, ExpertChoice{.group = Group::sequence}>>>,
               GPT<plain, AllowNonCausal<Dropping<Top, Drop::slot_major>>>,
               GPT<modern, AllowNonCausal<Dropping<Top, Drop::slot_major, Group::sequence>>>,
               GPT<plain, AllowNonCausal<Dropping<Top, Drop::batch_prioritised>>>,
               GPT<plain, AllowNonCausal<Dropping<Top, Drop::probability>>>,
               GPT<plain, AllowNonCausal<Dropping<Top, Drop::probability, Group::sequence, Round::up>>>>;

// Routes a token by the one after it, and says that it is causal.
struct ByTheNextToken : Top {
  template <int D, class T = float>
  struct For : Top::For<D, T> {
    using Base = Top::For<D, T>;
    void forward(In<D, T> x, RoutingPlan<T>& plan, typename Base::Tape& tape, const Pass& pass) const {
      Tokens<D, T> next(x.count);
      for (Index n = 0; n < x.count; ++n)
        std::copy_n(x[(n + 1) % pass.shape.length == 0 ? n : n + 1], D, next[n]);
      Base::forward(next, plan, tape, pass);
    }
  };
};

// With and without noise and dropout, dropless and under a capacity that drops about half, on one thread and
// on two.
std::vector<LeakOptions> all_options() {
  std::vector<LeakOptions> all;
  for (const double factor : {0.0, 0.5})
    for (const std::optional<Key> key : {std::optional<Key>{}, std::optional<Key>{Key{7}}})
      all.push_back({.options = {.capacity_factor = factor, .min_capacity = 1},
                     .objective = {.dropout = 0.1},
                     .key = key,
                     .exec = {key ? 2 : 1},
                     .seed = key ? 11u : 1u});
  return all;
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("no later token changes a bit of an earlier position of its sequence", "", Causal) {
  for (const LeakOptions& options : all_options()) {
    const LeakReport report = find_leak<TestType>(options);
    INFO("capacity factor " << options.options.capacity_factor << ", key " << options.key.has_value());
    CHECK(report.text() == "no leak");
  }
}

TEMPLATE_LIST_TEST_CASE("find_leak detects a non-causal rule", "", Leaking) {
  for (const LeakOptions& options : all_options()) {
    const bool expert_choice = !sets_drop_rule<typename TestType::RouterRecipe>;
    if (options.options.capacity_factor == 0 && !expert_choice) continue;  // dropless: nothing to compete for
    const LeakReport report = find_leak<TestType>(options);
    CHECK(report.leaks);
    CHECK(report.position < report.exchanged);
    CHECK(report.layer < TestType::config.layers);
  }
}

TEST_CASE("find_leak detects a router that reads the next token, at the position before it") {
  constexpr Config one_layer{.vocab = 11, .context = 8, .dim = 8, .layers = 1, .heads = 2, .hidden = 8};
  const LeakReport report = find_leak<GPT<one_layer, ByTheNextToken>>();
  CHECK(report.leaks);
  CHECK(report.position == report.exchanged - 1);
}

TEST_CASE("a non-causal drop policy leaks nothing if no pair is dropped") {
  using Model = GPT<plain, AllowNonCausal<Dropping<Top, Drop::slot_major>>>;
  CHECK_FALSE(find_leak<Model>().leaks);
  CHECK_FALSE(find_leak<Model>({.options = {.capacity_factor = 2}}).leaks);  // E / K: room for all
}

TEST_CASE("threshold expert choice leaks in training and not in evaluation") {
  using Model = GPT<plain, AllowNonCausal<ThresholdExpertChoice<4, 2>>>;
  CHECK_FALSE(find_leak<Model>({.draws = 8}).leaks);
  CHECK(find_leak<Model>({.key = Key{1}}).leaks);
}

// The bits of sequence 1 of three, in the batch and by itself.
template <class Model>
bool same_alone(const ModelOptions& options) {
  Model model;
  Rng rng(3);
  for_each_weight(
      [&](auto& w) {
        for (auto& x : w) x = static_cast<float>(0.4 * rng.normal());
      },
      model);
  model.options = options;
  Batch three{{3, 8}, {}, {}}, one{{1, 8}, {}, {}};
  for (Index n = 0; n < 24; ++n) three.inputs.push_back(static_cast<int>(rng.below(11)));
  one.inputs.assign(three.inputs.begin() + 8, three.inputs.begin() + 16);
  three.targets = three.inputs;
  one.targets = one.inputs;
  typename Model::Workspace work({3, 8}), work_alone({1, 8});
  model.forward(three, work);
  model.forward(one, work_alone);
  return std::memcmp(work.tape.normed[8], work_alone.tape.normed[0], sizeof(float) * 8 * Model::D) == 0;
}

TEST_CASE("other sequences change no bit of a sequence, dropless or with a capacity per sequence") {
  const ModelOptions limited{.capacity_factor = 0.5, .min_capacity = 1};
  CHECK(same_alone<GPT<plain, Top>>({}));
  CHECK(same_alone<GPT<modern, Top>>({}));
  CHECK(same_alone<GPT<plain, Dropping<Top, Drop::token_order, Group::sequence>>>(limited));
  CHECK(same_alone<GPT<modern, AllowNonCausal<Dropping<Top, Drop::slot_major, Group::sequence>>>>(limited));
  CHECK_FALSE(same_alone<GPT<plain, Top>>(limited));  // a capacity over the batch
}

TEST_CASE("a leak is reported by layer, sequence, position and seed") {
  const LeakReport report = find_leak<GPT<plain, AllowNonCausal<ExpertChoiceRouter<4, 2>>>>({.seed = 5});
  REQUIRE(report.leaks);
  CHECK(report.seed >= 5);
  const std::string text = report.text();
  CHECK(text.find("leak: layer 0 gives another output at position " + std::to_string(report.position)) == 0);
  CHECK(text.find("from position " + std::to_string(report.exchanged) + " on are replaced") !=
        std::string::npos);
}

TEST_CASE("options with which no leak can be found are rejected") {
  using Model = GPT<Config{.vocab = 5, .context = 8, .dim = 4, .layers = 1, .heads = 1}, TopKRouter<4, 2>>;
  CHECK_THROWS_WITH(find_leak<Model>({.draws = 0}), ContainsSubstring("draws is 0"));
  CHECK_THROWS_WITH(find_leak<Model>({.shape = {2, 1}}),
                    ContainsSubstring("1 sequence of 2 tokens is needed"));
  for (const double spread : {0.0, -1.0, std::nan("")})
    CHECK_THROWS_WITH(find_leak<Model>({.spread = spread}), ContainsSubstring("spread is "));
}
