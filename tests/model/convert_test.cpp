// Models with weights in panels: made of trained ones, they say almost the same.
#include <moegpt/generate/generator.hpp>
#include <moegpt/model/convert.hpp>
#include <moegpt/model/gpt.hpp>
#include <moegpt/model/intermediates.hpp>
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/moe/projected_mixture.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/moe/soft_moe.hpp>
#include <moegpt/train/adam.hpp>
#include <moegpt/train/evaluate.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 29,
                        .context = 16,
                        .dim = 48,
                        .layers = 2,
                        .heads = 4,
                        .hidden = 72,
                        .tied = true,
                        .dense_first = 1};
template <class N>
using Model = GPT<config, TopKRouter<4, 2>, N>;
using BF16Model = Model<Stored<float, BF16>>;
using INT8Model = Model<Stored<float, INT8>>;

// Each token decides the next but for one time in eight, when it is any.
Batch steps(Shape shape, std::uint64_t seed) {
  Rng rng(seed);
  Batch batch{shape};
  for (Index b = 0; b < shape.batch; ++b) {
    int now = static_cast<int>(rng.below(29));
    for (Index t = 0; t < shape.length; ++t) {
      batch.inputs.push_back(now);
      now = rng.below(8) == 0 ? static_cast<int>(rng.below(29)) : (5 * now + 3) % 29;
      batch.targets.push_back(now);
    }
  }
  return batch;
}

// Numbers of every weight, as they are widened, by path.
template <class M>
std::map<std::string, std::vector<float>> numbers(const M& model) {
  std::map<std::string, std::vector<float>> all;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        for (Index i = 0; i < w.size(); ++i) all[path].push_back(static_cast<float>(w[i]));
      },
      model);
  return all;
}

// Stored in S, and widened to float again: every number on the way is the same.
template <Config C, class Recipe, class S>
void require_bits_of_the_widened() {
  using Narrow = GPT<C, Recipe, Stored<float, S>>;
  using Wide = GPT<C, Recipe>;
  const auto model = random_model<Wide>(5);
  Narrow narrow;
  Wide wide;
  convert(*model, narrow);
  convert(narrow, wide);
  for (const Shape shape : {Shape{1, 1}, Shape{1, 16}, Shape{3, 11}, Shape{8, 16}}) {
    const Batch batch = random_batch(shape, C.vocab, 6);
    Workspace<Narrow> work(shape, {2}, {}, Use::inference);
    Workspace<Wide> expected(shape, {}, {}, Use::inference);
    narrow.forward(batch, work);
    wide.forward(batch, expected);
    CHECK(same_bits(work.tape.head.logits[0], expected.tape.head.logits[0], shape.tokens() * C.vocab));
  }
}

constexpr Config encoder{.vocab = 29,
                         .context = 16,
                         .dim = 40,
                         .layers = 2,
                         .heads = 4,
                         .kv_heads = 2,
                         .hidden = 72,
                         .mask = Mask::full,
                         .norm = Norm::rms,
                         .residual = Residual::post_norm,
                         .positions = Positions::rotary,
                         .gated = true,
                         .head_bias = true};

}  // namespace

TEMPLATE_TEST_CASE(
    "a model in storage has the bits of its widened weights, whatever its mixture and block are", "", BF16,
    INT8) {
  if constexpr (build_info().blas) return;
  using S = TestType;
  require_bits_of_the_widened<config, TopKRouter<4, 2>, S>();
  require_bits_of_the_widened<config, SharedExperts<TopKRouter<4, 2>, 1, Shared::gated>, S>();
  require_bits_of_the_widened<config, WithSharedProjection<TopKRouter<4, 2>, 24, Activation::relu>, S>();
  require_bits_of_the_widened<config, HierarchicalRouter<TopKRouter<2, 1>, TopKRouter<3, 2>>, S>();
  require_bits_of_the_widened<encoder, Dense, S>();
  require_bits_of_the_widened<encoder, SoftMoE<3, 2>, S>();
}

TEST_CASE("intermediates of a model in storage are read as any others") {
  const auto model = random_model<INT8Model>(5);
  Workspace<INT8Model> work({2, 8});
  model->forward(random_batch({2, 8}, config.vocab, 6), work);
  CHECK(!intermediates(*model, work, {.expert_outputs = true}).layers.empty());
}

TEST_CASE("a trained model's loss is within 0.1 % of itself in BF16, and within 1 % in INT8") {
  Model<float> model, grad;
  init(model, Key{1});
  Adam<Model<float>> adam{{.learning_rate = 3e-3}};
  Workspace<Model<float>> work({32, 16}, {}, {.balance = 0.01});
  for (std::uint64_t i = 0; i < 150; ++i) {
    const Batch batch = steps({32, 16}, i);
    model.forward(batch, work);
    set_zero(grad);
    model.backward(batch, work, grad);
    adam.step(model, grad);
  }
  const Batch batch = steps({64, 16}, 1000);
  const auto loss_of = [&](const auto& m) {
    using M = std::remove_cvref_t<decltype(m)>;
    Workspace<M> room({64, 16}, {}, {}, Use::inference);
    return m.forward(batch, room).cross_entropy;
  };
  BF16Model narrow;
  INT8Model narrower;
  convert(model, narrow);
  convert(model, narrower);
  const double loss = loss_of(model);
  CAPTURE(loss, loss_of(narrow), loss_of(narrower));
  CHECK(loss < 1);  // ln 29 = 3.4 before training
  CHECK(std::abs(loss_of(narrow) / loss - 1) < 0.001);
  CHECK(std::abs(loss_of(narrower) / loss - 1) < 0.01);
  CHECK(loss_of(narrow) != loss);
}

TEMPLATE_TEST_CASE(
    "a converted model has the weights of the other, rounded, and what is not a matrix as it was", "",
    Stored<float>, (Stored<float, BF16>), (Stored<float, INT8>)) {
  const auto model = random_model<Model<float>>(1);
  model->options.norm_epsilon = 0.25;
  Model<TestType> narrow;
  convert(*model, narrow);
  CHECK(narrow.options == model->options);
  Model<float> back;
  convert(narrow, back);
  const auto before = numbers(*model), stored = numbers(narrow), after = numbers(back);
  CHECK(stored == after);  // widening rounds nothing further
  CHECK(before.size() == stored.size());
  for (const auto& [path, old] : before) {
    INFO(path);
    const auto& now = stored.at(path);
    REQUIRE(now.size() == old.size());
    const bool in_storage = path.find("weight") != path.npos && path.find("norm") == path.npos &&
                            path.find("router") == path.npos && path.find("position") == path.npos;
    CHECK((now == old) == (!in_storage || std::same_as<TestType, Stored<float>>));
    double error = 0;
    for (std::size_t i = 0; i < now.size(); ++i) error = std::max(error, std::abs(double(now[i]) - old[i]));
    CHECK(error < 0.02);
  }
  Model<double> wide;
  convert(narrow, wide);
  CHECK(numbers(wide) == stored);
  Transformer<config, TopKRouter<4, 2>, TestType> trunk;
  convert(model->trunk, trunk);
  CHECK(numbers(trunk) == numbers(narrow.trunk));
}

TEMPLATE_TEST_CASE("a fresh model in storage is the converted fresh model", "", Stored<float>,
                   (Stored<float, BF16>), (Stored<float, INT8>)) {
  for (const Init scheme : {Init::gpt2, Init::makemoe}) {
    Model<float> model;
    Model<TestType> narrow, converted;
    init(model, Key{3}, scheme);
    init(narrow, Key{3}, scheme);
    convert(model, converted);
    CHECK(numbers(narrow) == numbers(converted));
    CHECK(count_weights(narrow) == count_weights(model));
    CHECK(narrow.active_weights() == model.active_weights());
  }
}

TEST_CASE("what cannot be converted is refused by its path, and nothing changes") {
  const auto model = random_model<Model<float>>(1);
  auto& weight = model->trunk.blocks.second[0].attention.query.weight;
  const float old = weight[5];
  BF16Model narrow;
  INT8Model narrower;
  weight[5] = 3.4e38f;  // of BF16 the largest is 3.39e38
  CHECK(contains(refusal([&] { convert(*model, narrow); }), "blocks.1.attention.query.weight[5] is 3.4e+38"));
  weight[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK(contains(refusal([&] { convert(*model, narrower); }), "blocks.1.attention.query.weight[5] is nan"));
  weight[5] = old;
  weight.release();
  CHECK(contains(refusal([&] { convert(*model, narrow); }),
                 "only one of the models holds blocks.1.attention.query.weight"));
  for (const auto& [path, all] : numbers(narrow))
    CHECK(std::all_of(all.begin(), all.end(), [](float x) { return x == 0; }));
  narrow.trunk.blocks.second[0].attention.query.weight.release();
  convert(*model, narrow);
  CHECK(narrow.trunk.token_embedding.weight[3] != 0);
}

TEMPLATE_TEST_CASE("generation takes a model in storage as any other", "", Stored<float>,
                   (Stored<float, BF16>), (Stored<float, INT8>)) {
  const auto model = random_model<Model<float>>(2);
  Model<TestType> narrow;
  Model<float> widened;
  convert(*model, narrow);
  convert(narrow, widened);
  Generator<Model<TestType>> generator(narrow, {.temperature = 0}, Rng(1));
  Generator<Model<float>> expected(widened, {.temperature = 0}, Rng(1));
  int id = 3, same = 3;
  for (int i = 0; i < 40; ++i) {  // beyond the context
    id = generator.next(id);
    same = expected.next(same);
    REQUIRE(id == same);
  }
}
