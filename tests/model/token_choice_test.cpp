// Token-choice rules inside whole models: ids, keys and caches reach them.
#include <moegpt/routing/cosine_router.hpp>
#include <moegpt/routing/gshard_router.hpp>
#include <moegpt/routing/hash_router.hpp>
#include <moegpt/routing/input_jitter.hpp>
#include <moegpt/routing/sigmoid_router.hpp>
#include <moegpt/routing/top_p_router.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 7, .context = 6, .dim = 6, .layers = 2, .heads = 2, .hidden = 5};
using DeepSeek = InputJitter<SigmoidRouter<6, 2, Sigmoid{.groups = 3, .groups_kept = 2}, std::ratio<5, 2>>>;

template <class Recipe>
void examine() {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const GradcheckReport report = gradcheck<GPT<config, Recipe, double>>(
        {.seed = seed,
         .pass = {.shape = {2, 5}, .options = {.capacity_factor = 1.2}, .key = Key{seed}},
         .routing = {.objective = {.balance = 0.1, .z = 0.05}},
         .per_tensor = 24});
    CAPTURE(seed, report.where, report.message);
    CHECK(report.ok);
  }
}

// The logits of a sequence: read at once, and one by one through a cache.
template <class Recipe>
void check_cache(std::optional<Key> key = {}) {
  using Model = GPT<config, Recipe>;
  const auto model = random_model<Model>(1);
  const std::vector<int> ids = random_ids(6, 7, 2);
  typename Model::Workspace work{{1, 6}};
  typename Model::Cache whole, growing;
  const auto at_once = model->logits(ids, work, whole, key);
  const std::vector<float> expected(at_once[0], at_once[0] + 6 * 7);
  for (std::size_t n = 0; n < 6; ++n) {
    const auto logits = model->logits(std::vector<int>{ids[n]}, work, growing, key);
    CHECK(same_bits(logits[0], expected.data() + 7 * n, 7));
  }
}

}  // namespace

TEST_CASE("the gradients of models with jittered sigmoid, hash and cosine routers agree with differences") {
  SECTION("sigmoid, groups, jitter") { examine<DeepSeek>(); }
  SECTION("hash") { examine<HashRouter<5, 2>>(); }
  SECTION("cosine") { examine<CosineRouter<5, 3, 4>>(); }
}

TEST_CASE(
    "tokens read one by one through a cache have the routes and bits of tokens read at once, draws "
    "included") {
  check_cache<DeepSeek>();
  check_cache<DeepSeek>(Key{3});
  check_cache<HashRouter<5, 2>>();
  check_cache<CosineRouter<5, 2, 8>>();
  check_cache<TopPRouter<6, 3>>();
  check_cache<GShardRouter<6, Second::random, std::ratio<1, 2>>>(Key{4});
}
