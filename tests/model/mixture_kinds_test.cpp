// Kinds of mixtures other than a plain router's, inside whole models.
#include <moegpt/io/model_file.hpp>
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/moe/projected_mixture.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/moe/soft_moe.hpp>
#include <moegpt/moe/with_experts.hpp>
#include <moegpt/testing/gradcheck.hpp>
#include <moegpt/train/progress.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 7, .context = 5, .dim = 6, .layers = 2, .heads = 2, .hidden = 5};
using Shared2 = SharedExperts<TopKRouter<5, 2>, 2>;
using SharedMasked = SharedExperts<Masked<TopKRouter<5, 2>, 2>, 1, Shared::gated>;
using Levels = HierarchicalRouter<TopKRouter<3, 2>, TopKRouter<2, 1>>;
using Projected =
    WithSharedProjection<TopKRouter<4, 4, TopK{.gates = Gates::probability}>, 3, Activation::tanh>;
using Soft = AllowNonCausal<SoftMoE<3, 2>>;
template <class Recipe>
using Model = GPT<config, Recipe, double>;

template <class Recipe>
void examine() {
  const Pass pass{.shape = {2, 5}, .key = Key{42}};
  const RoutingContext routing{.objective = {.dropout = 0.2, .balance = 0.3, .z = 0.2}};
  for (const std::uint64_t seed : {1, 2, 3}) {
    const GradcheckReport report =
        gradcheck<Model<Recipe>>({.seed = seed, .pass = pass, .routing = routing, .per_tensor = 16});
    INFO("seed " << seed << ", worst " << report.worst << " in " << report.where << ": " << report.message);
    REQUIRE(report.ok);
    REQUIRE(report.worst <= 1e-6);
  }
}

// The expert of the config by another name.
template <int D, int Dff, class T>
struct Same : Expert<D, Dff, config.activation, T> {};

}  // namespace

TEST_CASE("gradients of a model with masks, shared experts and their gate are its differences") {
  examine<SharedMasked>();
}
TEST_CASE("gradients of a model with two levels of routers are its differences") { examine<Levels>(); }
TEST_CASE("gradients of a model of linear experts with a shared projection are its differences") {
  examine<Projected>();
}
TEST_CASE("gradients of a model of soft mixtures are its differences") { examine<Soft>(); }

TEST_CASE("what a person sees of the routed experts is seen beside shared ones too") {
  const auto model = random_model<Model<SharedMasked>>(1);
  const Batch batch = random_batch({2, 5}, 7, 2);
  Workspace<Model<SharedMasked>> work(batch.shape);
  const Loss loss = model->forward(batch, work);
  CHECK(loss.balance > 0);
  Index pairs = 0;
  for (const Index load : expert_load(work)) pairs += load;
  CHECK(pairs == 2 * 10 * 2);  // layers, tokens, choices
}

TEST_CASE("a soft mixture has neither load nor balance loss, and a model of them trains") {
  const auto model = random_model<Model<Soft>>(3);
  const Batch batch = random_batch({2, 5}, 7, 4);
  Workspace<Model<Soft>> work(batch.shape);
  CHECK(model->forward(batch, work).balance == 0);
  CHECK(expert_load(work).empty());
}

TEST_CASE("a mask that allows fewer experts than a token takes is rejected by the model") {
  const auto model = random_model<Model<SharedMasked>>(5);
  const Batch batch = random_batch({2, 5}, 7, 6);
  Workspace<Model<SharedMasked>> work(batch.shape);
  const bool one[5] = {false, true, false, false, false};
  const auto refused = [&] { return refusal([&] { model->forward(batch, work); }); };
  CHECK(refused().empty());
  work.allowed = one;
  CHECK(contains(refused(), "1 of 5 experts may be chosen"));
  const AllowedExperts<SharedMasked> two{1, 4};
  work.allowed = two;
  CHECK(refused().empty());
  work.task = 2;
  CHECK(contains(refused(), "there are masks for tasks 0 .. 1"));
}

TEST_CASE("masks start at one in every scheme, and what writes to the residual stream starts smaller") {
  for (const Init scheme : {Init::gpt2, Init::makemoe}) {
    auto model = std::make_unique<Model<SharedMasked>>();
    init(*model, Key{7}, scheme);
    for (const auto& block : model->trunk.blocks.second)
      for (const auto& mask : block.mixture.routed.router.mask)
        for (const double m : mask) CHECK(m == 1);
  }
  auto model = std::make_unique<GPT<Config{.vocab = 7, .context = 5, .dim = 64, .layers = 8, .heads = 2},
                                    WithSharedProjection<TopKRouter<2, 1>, 64>>>();
  init(*model, Key{8});
  const auto& mixture = model->trunk.blocks.second[0].mixture;
  const auto norm = [](const auto& w) { return std::sqrt(kernels::squared_norm(w.data(), w.size())); };
  CHECK(norm(mixture.down.weight) == Approx(norm(mixture.mixture.experts[0].map.weight) / 4).epsilon(0.1));
}

TEST_CASE("shared experts are met by every token: of the experts only their share counts as active") {
  const auto model = std::make_unique<Model<Shared2>>();
  double routed = 0, all = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        all += double(w.size());
        if (contains(path, ".experts.")) routed += double(w.size());
      },
      *model);
  CHECK(model->active_weights() == Approx(all - routed + routed * 2 / 5));
}

TEST_CASE("the text of a model names its mixture as one would write it") {
  CHECK(contains(to_text<Model<SharedMasked>>(),
                 "}, SharedExperts<Masked<TopKRouter<5, 2>, 2>, 1, Shared::gated>>"));
  CHECK(contains(to_text<Model<Soft>>(), "}, AllowNonCausal<SoftMoE<3, 2>>>"));
  CHECK(contains(to_text<Model<Levels>>(), "}, HierarchicalRouter<TopKRouter<3, 2>, TopKRouter<2, 1>>>"));
}

TEST_CASE("models with experts of one's own that are the config's have the paths and bits of the config's") {
  const Batch batch = random_batch({2, 5}, 7, 2);
  const auto same = [&]<class Own, class Plain>(Own, Plain) {
    const auto own = random_model<Model<Own>>(1);
    const auto plain = random_model<Model<Plain>>(1);
    Model<Own> own_grad;
    Model<Plain> grad;
    Workspace<Model<Own>> own_work(batch.shape, {}, {.balance = 0.3});
    Workspace<Model<Plain>> work(batch.shape, {}, {.balance = 0.3});
    CHECK(own->forward(batch, own_work).total(own_work.objective) ==
          plain->forward(batch, work).total(work.objective));
    own->backward(batch, own_work, own_grad);
    plain->backward(batch, work, grad);
    std::vector<std::pair<std::string, std::vector<double>>> found, expected;
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto& g) { found.push_back({path, {g.begin(), g.end()}}); },
        own_grad);
    for_each_named_weight([&](const std::string& path, Kind,
                              const auto& g) { expected.push_back({path, {g.begin(), g.end()}}); },
                          grad);
    CHECK(found == expected);
  };
  same(WithExperts<Dense, Same>{}, Dense{});
  same(WithExperts<TopKRouter<4, 2>, Same>{}, TopKRouter<4, 2>{});
  same(WithExperts<SharedExperts<TopKRouter<4, 2>>, Same>{}, SharedExperts<TopKRouter<4, 2>>{});
}
