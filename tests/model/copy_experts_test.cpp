#include <moegpt/model/copy_experts.hpp>
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/moe/soft_moe.hpp>
#include <moegpt/routing/cosine_router.hpp>
#include <moegpt/routing/masked.hpp>

#include "../support/numbers.hpp"

using namespace moegpt;

namespace {

constexpr TopK biased{.bias = true, .selection_bias = true};
template <int E>
using Mixture = MoELayer<Masked<TopKRouter<E, 2, biased>, 2>, Expert<4, 3>>;

// Expert 0 of the destination is a mean of two, 1 is copied, 2 is left.
const ExpertMap map{{{{{1, 0.25}, {3, 0.75}}, {{0}}, {}}}};

}  // namespace

TEST_CASE("an expert is the sum of its parts, and one without parts is left as it is") {
  Mixture<4> from;
  Mixture<3> to, before;
  draw_weights(from, 1);
  draw_weights(to, 2);
  before = to;
  const CopyReport report = copy_experts(from, to, map);
  const auto mean = [](float a, float b) { return static_cast<float>(0.25 * a + 0.75 * b); };
  for (Index i = 0; i < 12; ++i) {
    CHECK(to.experts[0].up.weight[i] == mean(from.experts[1].up.weight[i], from.experts[3].up.weight[i]));
    CHECK(to.experts[1].down.weight[i] == from.experts[0].down.weight[i]);
    CHECK(to.experts[2].up.weight[i] == before.experts[2].up.weight[i]);
  }
  CHECK(report.left == std::vector<std::string>{"experts.2.up.weight", "experts.2.up.bias",
                                                "experts.2.down.weight", "experts.2.down.bias"});
  CHECK(report.unused.size() == 4);  // of expert 2
}

TEST_CASE("the weights of a router go with the experts, rows and elements alike") {
  Mixture<4> from;
  Mixture<3> to, before;
  draw_weights(from, 1);
  draw_weights(to, 2);
  before = to;
  copy_experts(from, to, map);
  const auto mean = [](float a, float b) { return static_cast<float>(0.25 * a + 0.75 * b); };
  const auto &r = to.router, &b = before.router;
  const auto& f = from.router;
  for (Index k = 0; k < 4; ++k) {
    CHECK(r.inner.logits.weight[k] == mean(f.inner.logits.weight[4 + k], f.inner.logits.weight[12 + k]));
    CHECK(r.inner.logits.weight[4 + k] == f.inner.logits.weight[k]);
    CHECK(r.inner.logits.weight[8 + k] == b.inner.logits.weight[8 + k]);
  }
  const auto check_vector = [&](const auto& found, const auto& source, const auto& old) {
    CHECK(found[0] == mean(source[1], source[3]));
    CHECK(found[1] == source[0]);
    CHECK(found[2] == old[2]);
  };
  check_vector(r.inner.logits.bias, f.inner.logits.bias, b.inner.logits.bias);
  check_vector(r.inner.selection_bias, f.inner.selection_bias, b.inner.selection_bias);
  check_vector(r.mask[1], f.mask[1], b.mask[1]);
}

TEST_CASE("weights of a router that are not of experts are copied, and experts may have several rows") {
  MoELayer<CosineRouter<4, 2>, Expert<4, 3>> cosine;
  MoELayer<CosineRouter<3, 2>, Expert<4, 3>> fewer;
  draw_weights(cosine, 1);
  copy_experts(cosine, fewer, map);
  const auto named = [](auto& tree, const std::string& wanted) {
    std::vector<float> all;
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto& w) {
          if (path == wanted) all.assign(w.begin(), w.end());
        },
        tree);
    return all;
  };
  CHECK(named(fewer, "router.projection.weight") == named(cosine, "router.projection.weight"));
  CHECK(named(fewer, "router.log_scale") == named(cosine, "router.log_scale"));

  SoftMoELayer<4, 2, Expert<4, 3>> soft;  // two slots for each expert
  SoftMoELayer<3, 2, Expert<4, 3>> less;
  draw_weights(soft, 1);
  copy_experts(soft, less, map);
  const std::vector<float> slots = named(less, "router.weight"), of = named(soft, "router.weight");
  REQUIRE(slots.size() == 24);
  CHECK(std::equal(slots.begin() + 8, slots.begin() + 16, of.begin()));
}

TEST_CASE("maps of other sizes are rejected, and so are models of equally many experts") {
  const Mixture<4> from;
  Mixture<3> to;
  Mixture<4> same;
  const auto message = [&](const ExpertMap& wrong) {
    return refusal([&] { copy_experts(from, to, wrong); });
  };
  CHECK_THAT(message({{{{{0}}, {{1}}}}}),
             ContainsSubstring("the map has 2 experts for layer -1, expected 3"));
  CHECK_THAT(message({{{{{0}}, {{1}}, {{4}}}}}),
             ContainsSubstring("the source has no expert 4, expected 0 .. 3"));
  CHECK_THAT(message({}), ContainsSubstring("lists of 0 layers"));
  CHECK_THAT(refusal([&] { copy_experts(from, same, map); }),
             ContainsSubstring("both models have 4 experts"));
  MoELayer<Masked<TopKRouter<3, 2, biased>, 2>, Expert<4, 2>> narrow;
  CHECK_THAT(refusal([&] { copy_experts(from, narrow, map); }),
             ContainsSubstring("has shape [3, 4], expected [2, 4]"));
}
