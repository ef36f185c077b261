// Models with adapters: gradients, first step, merging, and training them alone.
#include <moegpt/model/adapters.hpp>
#include <moegpt/testing/gradcheck.hpp>
#include <moegpt/train/adam.hpp>
#include <moegpt/train/freeze.hpp>

#include "support.hpp"

namespace {

constexpr Config base{.vocab = 7,
                      .context = 6,
                      .dim = 8,
                      .layers = 2,
                      .heads = 4,
                      .kv_heads = 2,
                      .hidden = 5,
                      .positions = Positions::rotary,
                      .head_bias = true,
                      .dense_first = 1};
constexpr Config adapted = [] {
  Config c = base;
  c.adapter_rank = 2;
  return c;
}();
using Top2 = TopKRouter<3, 2>;
using Base = GPT<base, Top2, double>;
using Model = GPT<adapted, Top2, double>;

// query and output 8 x 8, key and value 8 x 4, in two layers; head 7 x 8; times the rank of 2
constexpr Index adapter_weights = 2 * (2 * (2 * (8 + 8) + 2 * (8 + 4)) + (7 + 8));

template <class M>
std::vector<double> logits_of(const M& model, const Batch& batch) {
  typename M::Workspace work(batch.shape);
  model.forward(batch, work);
  const auto& logits = work.tape.head.logits.memory();
  return {logits.begin(), logits.end()};
}
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (const double off = std::abs(a[i] - b[i]); !(off <= worst)) worst = off;
  return worst;
}

}  // namespace

TEST_CASE("every gradient of a model with adapters agrees with differences") {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const GradcheckReport report = gradcheck<Model>(
        {.seed = seed, .pass = {.shape = {2, 3}, .options = {.adapter_alpha = 5}}, .per_tensor = 24});
    INFO("seed " << seed << ", worst " << report.worst << " in " << report.where);
    INFO(report.message);
    REQUIRE(report.ok);
    CHECK(report.worst <= 1e-6);
  }
}

TEST_CASE("before its first step a model with adapters is the model without, to the bit") {
  const auto model = std::make_unique<Model>();
  const auto plain = std::make_unique<Base>();
  init(*model, Key{1}), init(*plain, Key{1});
  const Batch batch = random_batch({2, 5}, 7, 3);
  const auto logits = logits_of(*model, batch), expected = logits_of(*plain, batch);
  REQUIRE(logits.size() == expected.size());
  CHECK(same_bits(logits.data(), expected.data(), std::ssize(logits)));
  // A is drawn from U(+-1 / sqrt(8)), B is zero
  double largest = 0, squares = 0, of_b = 0;
  Index count = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        for (const double x : w)
          if (path.ends_with("adapter.a"))
            ++count, largest = std::max(largest, std::abs(x)), squares += x * x;
          else if (is_adapter(path))
            of_b = std::max(of_b, std::abs(x));
      },
      std::as_const(*model));
  CHECK(count == 9 * 2 * 8);
  CHECK(largest <= 1 / std::sqrt(8.0));
  CHECK(largest > 0.95 / std::sqrt(8.0));
  CHECK(squares / 144 == Approx(1 / (3 * 8.0)).epsilon(0.2));  // the variance
  CHECK(of_b == 0);
  CHECK(count_weights(*model) - count_weights(*plain) == adapter_weights);
}

TEST_CASE("a merged model has the adapted model's logits to rounding, and unmerged its bits") {
  const auto model = random_model<Model>(5);
  model->options.adapter_alpha = 3;
  const auto before = std::make_unique<Model>(*model);
  const Batch batch = random_batch({2, 6}, 7, 4);
  const auto logits = logits_of(*model, batch);
  MergedAdapters<double> merged = merge_adapters(*model, {.threads = 2});
  CHECK(count_weights(*before) - count_weights(*model) == adapter_weights);
  Index former = 0;  // the adapters and what unmerge needs of the matrices
  for (const auto& [path, numbers] : merged.weights) former += numbers.size();
  CHECK(former == adapter_weights + 2 * (2 * 64 + 2 * 32) + 56);
  CHECK(first_difference(*model, *before) == "blocks.0.attention.query.weight");
  CHECK(distance(logits_of(*model, batch), logits) <= 1e-12);  // logits of order 1 to 10, in double
  // as a model of the type without adapters
  const auto plain = std::make_unique<Base>();
  std::map<std::string, WeightRef<double>> weights;
  for_each_named_weight([&](const std::string& path, Kind, auto& w) { weights.emplace(path, w); }, *model);
  for_each_named_weight([&](const std::string& path, Kind,
                            auto& w) { std::copy_n(weights.at(path).data(), w.size(), w.data()); },
                        *plain);
  const auto expected = logits_of(*plain, batch);
  CHECK(same_bits(logits_of(*model, batch).data(), expected.data(), std::ssize(expected)));

  CHECK(contains(refusal([&] { merge_adapters(*model); }), "has no adapters"));
  CHECK(contains(refusal([&] { unmerge_adapters(*before, merged); }), "not merged"));
  CHECK(contains(refusal([&] { unmerge_adapters(*model, {}); }), "0 of the 0 merged weights"));
  unmerge_adapters(*model, std::move(merged));
  CHECK(first_difference(*model, *before).empty());
  CHECK(same_bits(logits_of(*model, batch).data(), logits.data(), std::ssize(logits)));
}

TEST_CASE("adapters train alone: other weights keep their bits, moments exist for adapters only") {
  const auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, Key{1}, Init::makemoe);
  const auto before = std::make_unique<Model>(*model);
  freeze_all_but_adapters(*grad);
  CHECK(count_weights(*grad) == adapter_weights);
  Adam<Model> adam({.learning_rate = 0.05}, *grad);
  CHECK(count_weights(adam) == 2 * adapter_weights);
  const Batch batch = random_batch({2, 6}, 7, 9);
  Model::Workspace work(batch.shape);
  double first = 0, last = 0;
  for (int step = 0; step < 20; ++step) {
    last = model->forward(batch, work).cross_entropy;
    if (step == 0) first = last;
    set_zero(*grad);
    model->backward(batch, work, *grad);
    adam.step(*model, *grad);
  }
  CHECK(last < 0.7 * first);
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w, const auto& old) {
        CAPTURE(path);
        CHECK(same_bits(w.data(), old.data(), w.size()) == is_no_adapter(path));
      },
      std::as_const(*model), std::as_const(*before));
}

TEST_CASE("a tied head has no adapter, attention's remain") {
  constexpr Config tied = [] {
    Config c = adapted;
    c.tied = true, c.head_bias = false, c.mask = Mask::full;
    return c;
  }();
  using Tied = GPT<tied, Top2, double>;
  static_assert(std::is_empty_v<decltype(Tied::head)>);
  std::vector<std::string> paths;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto&) {
        if (is_adapter(path)) paths.push_back(path);
      },
      *std::make_unique<Tied>());
  CHECK(paths.size() == 2 * 2 * 4);
  CHECK(paths.front() == "blocks.0.attention.query.adapter.a");
}

TEST_CASE("paths of adapters are told from others") {
  for (const char* path : {"adapter.a", "head.adapter.b", "first_moment.blocks.0.attention.key.adapter.a"})
    CHECK(is_adapter(path));
  for (const char* path : {"", "a", "adapter", "my_adapter.a", "head.adapter.c", "adapter.a.weight"})
    CHECK(is_no_adapter(path));
}

TEST_CASE("an alpha that is no scale is rejected") {
  for (const double alpha : {-1.0, std::nan("")})
    CHECK(contains(refusal([&] { check_options({.adapter_alpha = alpha}); }), "adapter_alpha is "));
  CHECK(adapter_scale({}, 8) == 1);
  CHECK(adapter_scale({.adapter_alpha = 16}, 8) == 2);
}
