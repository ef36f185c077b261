#include <moegpt/moe/cosine_router.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 65, .context = 32, .dim = 48, .layers = 3, .heads = 4, .hidden = 64,
                        .head_bias = true};
using Model = GPT<config, NoisyTopKRouter<3, 2, NoisyTopK{.bias = true}>>;
constexpr Config without_bias = [] {
  Config c = config;
  c.head_bias = false, c.output_bias = false;
  return c;
}();

std::unique_ptr<Model> initial(Init scheme, std::uint64_t seed = 5) {
  auto model = std::make_unique<Model>();
  init(*model, Key{seed}, scheme);
  return model;
}

// `count` draws of this deviation: their root mean square is within five of its own standard deviations.
template <class W>
void check_deviation(const std::string& path, const W& w, double deviation) {
  double squares = 0, sum = 0;
  for (const float x : w) squares += double(x) * x, sum += x;
  const auto n = static_cast<double>(w.size());
  INFO(path);
  CHECK(std::abs(std::sqrt(squares / n) - deviation) <= 5 * deviation / std::sqrt(2 * n));
  CHECK(std::abs(sum / n) <= 5 * deviation / std::sqrt(n));
}
template <class W>
bool constant(const W& w, float value) {
  return std::all_of(w.begin(), w.end(), [&](float x) { return x == value; });
}
bool is_norm(const std::string& path) { return contains(path, "norm"); }

}  // namespace

TEST_CASE("gpt2 draws matrices and embeddings with deviation 0.02 and what writes to the stream with less") {
  for_each_named_weight([&](const std::string& path, Kind, const auto& w) {
    INFO(path);
    if (is_norm(path)) {
      CHECK(constant(w, path.ends_with("weight") ? 1.f : 0.f));
    } else if (path.ends_with("bias")) {
      CHECK(constant(w, 0));
    } else {
      const bool residual = contains(path, "attention.output") || contains(path, ".down.");
      check_deviation(path, w, residual ? 0.02 / std::sqrt(6.0) : 0.02);
    }
  }, std::as_const(*initial(Init::gpt2)));
}

TEST_CASE("makemoe draws matrices by Kaiming's rule, biases uniformly and embeddings with deviation one") {
  for_each_named_weight([&](const std::string& path, Kind, const auto& w) {
    INFO(path);
    const int fan_in = contains(path, ".down.") ? config.hidden : config.dim;
    if (is_norm(path)) {
      CHECK(constant(w, path.ends_with("weight") ? 1.f : 0.f));
    } else if (path.ends_with("bias")) {
      const double bound = 1 / std::sqrt(double(fan_in));
      for (const float x : w) CHECK(std::abs(x) <= bound);
      if (w.size() > 40) CHECK(*std::max_element(w.begin(), w.end()) > 0.8 * bound);   // 0.9^40 = 1.5 %
      // a uniform's square varies less than a normal's, so five deviations are generous
      check_deviation(path, w, bound / std::sqrt(3.0));
    } else {
      check_deviation(path, w, contains(path, "embedding") ? 1 : std::sqrt(2.0 / fan_in));
    }
  }, std::as_const(*initial(Init::makemoe)));
}

TEST_CASE("the bias of a tied head is drawn for the width of the model") {
  constexpr Config tied = [] {
    Config c = config;
    c.tied = true, c.moe_every = 1;
    return c;
  }();
  const auto model = std::make_unique<GPT<tied, TopKRouter<3, 2>>>();
  init(*model, Key{5}, Init::makemoe);
  const double bound = 1 / std::sqrt(double(config.dim));
  double largest = 0;
  for (const float x : model->head.bias) largest = std::max(largest, std::abs(double(x)));
  CHECK(largest <= bound);
  CHECK(largest > 0.9 * bound);   // 65 draws: 0.9^65 = 0.1 %
}

TEST_CASE("the same key gives the same weights and another key others") {
  CHECK(first_difference(*initial(Init::makemoe), *initial(Init::makemoe)).empty());
  CHECK(first_difference(*initial(Init::gpt2, 5), *initial(Init::gpt2, 6)) == "token_embedding.weight");
}

TEST_CASE("no two weights share their numbers") {
  std::vector<float> firsts;
  for_each_named_weight([&](const std::string& path, Kind, const auto& w) {
    if (!is_norm(path)) firsts.push_back(w[0]);
  }, std::as_const(*initial(Init::makemoe)));
  std::sort(firsts.begin(), firsts.end());
  CHECK(std::adjacent_find(firsts.begin(), firsts.end()) == firsts.end());
}

TEST_CASE("a model without some biases has the other weights of the model with them") {
  using Fewer = GPT<without_bias, NoisyTopKRouter<3, 2, NoisyTopK{.bias = true}>>;
  const auto model = initial(Init::gpt2);
  const auto fewer = std::make_unique<Fewer>();
  init(*fewer, Key{5});
  const auto& a = model->blocks.second[2].mixture.experts[1].down.weight;
  const auto& b = fewer->blocks.second[2].mixture.experts[1].down.weight;
  CHECK(same_bits(a.data(), b.data(), a.size()));
  CHECK(same_bits(model->head.weight.data(), fewer->head.weight.data(), model->head.weight.size()));
}

TEST_CASE("a fresh gpt2 model knows nothing: its loss is ln V") {
  const auto model = initial(Init::gpt2);
  const Batch batch = random_batch({4, 32}, config.vocab, 1);
  Workspace<Model> work(batch.shape);
  // logits have deviation 0.02 sqrt(48) = 0.14, which adds half its square; the mean over 128 tokens varies by 0.012
  CHECK(std::abs(model->forward(batch, work).cross_entropy - std::log(65.0) - 0.01) <= 0.04);
}

TEST_CASE("a cosine router begins with scale 2") {
  using Cosine = GPT<without_bias, CosineRouter<3, 2, 8>>;
  for (const Init scheme : {Init::gpt2, Init::makemoe}) {
    const auto model = std::make_unique<Cosine>();
    init(*model, Key{5}, scheme);
    int found = 0;
    for_each_named_weight([&](const std::string& path, Kind, const auto& w) {
      if (!path.ends_with("log_scale")) return;
      CHECK(std::exp(w[0]) == Approx(2));
      ++found;
    }, std::as_const(*model));
    CHECK(found > 0);
  }
}
