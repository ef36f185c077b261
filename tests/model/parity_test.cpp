// The same numbers as PyTorch: tests/golden/make_golden.py wrote the fixtures, and its comment says what is
// in them. Float has one tolerance for everything: the script admits only runs in which a float32 AdamW stays
// near the float64 one, so no gradient of theirs is rounding noise that decides the sign of a step.
#include <moegpt/io/safetensors.hpp>
#include <moegpt/train/adam.hpp>

#include "support.hpp"

namespace {

constexpr Config makemoe{.vocab = 11,
                         .context = 6,
                         .dim = 12,
                         .layers = 2,
                         .heads = 3,
                         .hidden = 10,
                         .norm = Norm::layer,
                         .positions = Positions::learned,
                         .activation = Activation::relu,
                         .output_bias = true,
                         .expert_bias = true,
                         .head_bias = true};
constexpr Config gqa_rotary{.vocab = 11,
                            .context = 8,
                            .dim = 16,
                            .layers = 2,
                            .heads = 4,
                            .kv_heads = 2,
                            .hidden = 8,
                            .norm = Norm::rms,
                            .positions = Positions::rotary,
                            .activation = Activation::silu,
                            .gated = true,
                            .output_bias = false,
                            .expert_bias = false};
template <class T>
using MakeMoE = GPT<makemoe, NoisyTopKRouter<4, 2, NoisyTopK{.bias = true}>, T>;
template <class T>
using GqaRotary = GPT<gqa_rotary, TopKRouter<5, 2>, T>;

// The figures.
template <class T>
constexpr double tolerance = sizeof(T) == 8 ? 1e-10 : 1e-4;

class Fixture {
 public:
  explicit Fixture(const std::string& name)
      : file_(read_safetensors(MOEGPT_TESTS_DIR "/golden/" + name + ".safetensors")) {}

  std::vector<double> numbers(const std::string& name) const {
    INFO("tensor " << name);
    const auto found = file_.header.tensors.find(name);
    REQUIRE(found != file_.header.tensors.end());
    Index count = 1;
    for (const Index extent : found->second.shape) count *= extent;
    std::vector<double> numbers(static_cast<std::size_t>(count));
    for_each_number<double>(found->second.dtype, file_.bytes(found->second).data(), count,
                            [&](Index i, double x) { numbers[static_cast<std::size_t>(i)] = x; });
    return numbers;
  }
  double number(const std::string& name, std::size_t at = 0) const { return numbers(name).at(at); }
  // Ids of batch `step` of all the fixture's of this name.
  std::vector<int> ids(const std::string& name, Shape shape, Index step = 0) const {
    const std::vector<double> all = numbers(name);
    const auto first = all.begin() + step * shape.tokens();
    return {first, first + shape.tokens()};
  }
  std::size_t count(const std::string& prefix) const {
    std::size_t n = 0;
    for (const auto& [name, info] : file_.header.tensors) n += name.starts_with(prefix);
    return n;
  }

 private:
  SafetensorsFile file_;
};

template <class T>
double relative_error(const T* found, const std::vector<double>& expected) {
  double error = 0, scale = 1e-6;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double x = static_cast<double>(found[i]);
    error = std::max(error, std::abs(x - expected[i]));
    if (!(std::abs(x) <= 1e30)) return 1e30;  // NaN has no place in a maximum
    scale = std::max({scale, std::abs(x), std::abs(expected[i])});
  }
  return error / scale;
}

template <class Model>
std::unique_ptr<Model> model_of(const Fixture& fixture, const ModelOptions& options) {
  auto model = std::make_unique<Model>();
  model->options = options;
  std::size_t weights = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& w) {
        const std::vector<double> numbers = fixture.numbers("weight." + path);
        REQUIRE(std::ssize(numbers) == w.size());
        for (Index i = 0; i < w.size(); ++i)
          w[i] = static_cast<typename Model::Scalar>(numbers[static_cast<std::size_t>(i)]);
        ++weights;
      },
      *model);
  REQUIRE(weights == fixture.count("weight."));
  return model;
}

template <class Tree>
void require_same(const Tree& tree, const Fixture& fixture, const std::string& prefix) {
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        using T = typename std::remove_cvref_t<decltype(w)>::Scalar;
        INFO("tensor " << prefix + path);
        REQUIRE(relative_error(w.data(), fixture.numbers(prefix + path)) <= tolerance<T>);
      },
      tree);
}

template <class T>
void require_same(double found, const Fixture& fixture, const std::string& name, std::size_t at = 0) {
  INFO("tensor " << name << "[" << at << "]");
  REQUIRE(relative_error(&found, {fixture.number(name, at)}) <= tolerance<T>);
}

// Pairs that each expert computed, in the order of layers.
template <class Model>
void require_counts(const Workspace<Model>& work, const Fixture& fixture, const std::string& name,
                    std::size_t first) {
  const std::vector<double> expected = fixture.numbers(name);
  for (const auto& block : work.tape.trunk.blocks.second)
    for (int e = 0; e < block.mixture.plan.experts; ++e) {
      INFO("tensor " << name << "[" << first << "]");
      REQUIRE(static_cast<double>(block.mixture.plan.load(e)) == expected.at(first++));
    }
}

struct Setting {
  std::string fixture;
  ModelOptions options{};
  Objective objective{};
  Shape shape, steps{2, 3};
  bool noise = false;

  std::optional<Key> key(std::uint64_t step) const {
    if (!noise) return {};
    return Key{mix64(7)}.with(Purpose::step, step);
  }
};

const double makemoe_scale =
    1 / std::sqrt(12.0);  // makeMoE divides by the width of the stream, not of a head
const Setting noise_off{"makemoe_noise_off", {.attention_scale = makemoe_scale}, {}, {2, 6}};
const Setting noise_given{
    "makemoe_noise_given", {.attention_scale = makemoe_scale}, {}, {2, 6}, {2, 3}, true};
const Setting capacity{
    "makemoe_capacity", {.attention_scale = makemoe_scale, .capacity_factor = 1}, {}, {2, 6}};
const Setting rotary{"gqa_rotary", {}, {.balance = 0.01}, {2, 7}};

template <class Model>
void require_one_pass(const Setting& s) {
  using T = typename Model::Scalar;
  const Fixture fixture(s.fixture);
  const auto model = model_of<Model>(fixture, s.options);
  const Batch batch{s.shape, fixture.ids("inputs", s.shape), fixture.ids("targets", s.shape)};
  Workspace<Model> work(s.shape, {}, s.objective);
  const Loss loss = model->forward(batch, work, s.key(0));
  Model grad;
  model->backward(batch, work, grad);

  INFO("fixture " << s.fixture << ", " << 8 * sizeof(T) << " bits");
  require_counts(work, fixture, "counts", 0);
  {
    INFO("tensor logits");
    REQUIRE(relative_error(work.tape.head.logits[0], fixture.numbers("logits")) <= tolerance<T>);
  }
  require_same<T>(loss.cross_entropy, fixture, "loss");
  require_same<T>(s.objective.balance * loss.balance, fixture, "balance");
  require_same(grad, fixture, "grad.");
}

template <class Model>
void require_ten_steps(const Setting& s, EmptyExpert empty_expert) {
  using T = typename Model::Scalar;
  const std::string semantics = empty_expert == EmptyExpert::skip ? "skip" : "zero";
  const Fixture fixture(s.fixture);
  const auto model = model_of<Model>(fixture, s.options);
  Model grad;
  Adam<Model> adam({.learning_rate = 1e-2, .weight_decay = 0.01, .empty_expert = empty_expert});
  Workspace<Model> work(s.steps, {}, s.objective);

  INFO("fixture " << s.fixture << ", empty experts: " << semantics << ", " << 8 * sizeof(T) << " bits");
  std::size_t expert_counts = 0;
  for (std::size_t step = 0; step < 10; ++step) {
    const Batch batch{s.steps, fixture.ids("steps.inputs", s.steps, static_cast<Index>(step)),
                      fixture.ids("steps.targets", s.steps, static_cast<Index>(step))};
    const Loss loss = model->forward(batch, work, s.key(step + 1));
    require_counts(work, fixture, "steps." + semantics + ".counts", expert_counts);
    expert_counts += fixture.numbers("steps.skip.counts").size() / 10;
    require_same<T>(loss.cross_entropy, fixture, "steps." + semantics + ".losses", step);
    require_same<T>(s.objective.balance * loss.balance, fixture, "steps." + semantics + ".balances", step);
    set_zero(grad);
    model->backward(batch, work, grad);
    adam.step(*model, grad);
  }
  require_same(*model, fixture, semantics + ".");
}

}  // namespace

TEMPLATE_TEST_CASE(
    "makeMoE's logits, loss and every gradient are PyTorch's, without noise, with it and with capacity", "",
    float, double) {
  require_one_pass<MakeMoE<TestType>>(noise_off);
  require_one_pass<MakeMoE<TestType>>(noise_given);
  require_one_pass<MakeMoE<TestType>>(capacity);
}

TEMPLATE_TEST_CASE(
    "grouped heads, rotary positions, RMSNorm, gated experts and the balance loss are PyTorch's", "", float,
    double) {
  require_one_pass<GqaRotary<TestType>>(rotary);
}

TEMPLATE_TEST_CASE(
    "ten AdamW steps end at PyTorch's weights, whether an expert without tokens is skipped or decays", "",
    float, double) {
  for (const EmptyExpert empty_expert : {EmptyExpert::skip, EmptyExpert::zero_gradient}) {
    require_ten_steps<MakeMoE<TestType>>(noise_off, empty_expert);
    require_ten_steps<MakeMoE<TestType>>(noise_given, empty_expert);
    require_ten_steps<GqaRotary<TestType>>(rotary, empty_expert);
  }
}

TEST_CASE("the noise of the fixture is the noise of its key") {
  const Fixture fixture("makemoe_noise_given");
  const std::vector<double> noise = fixture.numbers("noise");
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const Key key = noise_given.key(0)->with(Purpose::layer, layer).with(Purpose::router_noise);
    for (std::size_t i = 0; i < 48; ++i)  // one build's normals differ from Python's by rounding
      REQUIRE(std::abs(key.normal(i) - noise[layer * 48 + i]) <= 1e-14);
  }
}
