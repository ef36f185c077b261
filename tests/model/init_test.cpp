#include <moegpt/model/presets.hpp>
#include <moegpt/routing/cosine_router.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/moe/projected_mixture.hpp>
#include <moegpt/moe/soft_moe.hpp>

#include "support.hpp"

namespace {

constexpr Config config{
    .vocab = 65, .context = 32, .dim = 48, .layers = 3, .heads = 4, .hidden = 64, .head_bias = true};
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
// Of paths and initial weights in both schemes, rounded: normals of another build may have other last bits.
template <class Initialised>
std::uint64_t draws_of() {
  std::uint64_t hash = 0;
  for (const Init scheme : {Init::gpt2, Init::makemoe}) {
    const auto model = std::make_unique<Initialised>();
    init(*model, Key{5}, scheme);
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto& w) {
          hash ^= detail::fnv_1a(path);
          for (const auto x : w)
            hash = mix64(hash + static_cast<std::uint64_t>(std::llround(static_cast<double>(x) * 0x1p20)));
        },
        std::as_const(*model));
  }
  return hash;
}
constexpr Config small{.vocab = 7, .context = 5, .dim = 8, .layers = 3, .heads = 2, .hidden = 6};
constexpr Config with_all_biases = [] {
  Config c = small;
  c.attention_bias = c.head_bias = c.tied = c.gated = true, c.moe_every = 2;
  return c;
}();
constexpr Config without_norms = [] {
  Config c = small;
  c.residual = Residual::no_norm, c.head_bias = true;
  return c;
}();
constexpr presets::Extents extents{
    .vocab = 7, .context = 5, .dim = 8, .layers = 3, .heads = 4, .kv_heads = 2, .hidden = 4, .experts = 6};
constexpr presets::Extents grouped = [] {
  presets::Extents x = extents;
  x.experts = 16, x.active = 3;
  return x;
}();

// A model of one's own, whose names say nothing, or something else.
struct Own {
  static constexpr Config config = ::config;
  LayerNorm<8> ln;
  RMSNorm<8> rescale;
  LayerNorm<8> off;
  Weight<float, 4> scale, mask, attention_norm, count, share;
  Weight<float, 64, 32> norm, down, embedding;
  Linear<32, 64> output, last;
  Weight<float, 4, 4> table;

  static constexpr auto fields() {
    return Fields{Field{"ln", &Own::ln},
                  Field{"rescale", &Own::rescale},
                  Field{"off", &Own::off, Start::zero},
                  Field{"scale", &Own::scale, Start::at(0.25)},
                  Field{"mask", &Own::mask},
                  Field{"attention_norm", &Own::attention_norm},
                  Field{"count", &Own::count, Kind::buffer},
                  Field{"share", &Own::share, Kind::buffer, Start::one},
                  Field{"norm", &Own::norm},
                  Field{"down", &Own::down},
                  Field{"embedding", &Own::embedding},
                  Field{"output", &Own::output},
                  Field{"last", &Own::last, Start::residual},
                  Field{"table", &Own::table, Kind::buffer}};
  }
};
static_assert(lists_every_field<Own>());

bool is_norm(const std::string& path) { return contains(path, "norm"); }

}  // namespace

TEST_CASE("gpt2 draws matrices and embeddings with deviation 0.02 and what writes to the stream with less") {
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        INFO(path);
        if (is_norm(path)) {
          CHECK(constant(w, path.ends_with("weight") ? 1.f : 0.f));
        } else if (path.ends_with("bias")) {
          CHECK(constant(w, 0));
        } else {
          const bool residual = contains(path, "attention.output") || contains(path, ".down.");
          check_deviation(path, w, residual ? 0.02 / std::sqrt(6.0) : 0.02);
        }
      },
      std::as_const(*initial(Init::gpt2)));
}

TEST_CASE("makemoe draws matrices by Kaiming's rule, biases uniformly and embeddings with deviation one") {
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        INFO(path);
        const int fan_in = contains(path, ".down.") ? config.hidden : config.dim;
        if (is_norm(path)) {
          CHECK(constant(w, path.ends_with("weight") ? 1.f : 0.f));
        } else if (path.ends_with("bias")) {
          const double bound = 1 / std::sqrt(double(fan_in));
          for (const float x : w) CHECK(std::abs(x) <= bound);
          if (w.size() > 40) CHECK(*std::max_element(w.begin(), w.end()) > 0.8 * bound);  // 0.9^40 = 1.5 %
          // a uniform's square varies less than a normal's, so five deviations are generous
          check_deviation(path, w, bound / std::sqrt(3.0));
        } else {
          check_deviation(path, w, contains(path, "embedding") ? 1 : std::sqrt(2.0 / fan_in));
        }
      },
      std::as_const(*initial(Init::makemoe)));
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
  CHECK(largest > 0.9 * bound);  // 65 draws: 0.9^65 = 0.1 %
}

TEST_CASE("the same key gives the same weights and another key others") {
  CHECK(first_difference(*initial(Init::makemoe), *initial(Init::makemoe)).empty());
  CHECK(first_difference(*initial(Init::gpt2, 5), *initial(Init::gpt2, 6)) == "token_embedding.weight");
}

TEST_CASE("no two weights share their numbers") {
  std::vector<float> firsts;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        if (!is_norm(path)) firsts.push_back(w[0]);
      },
      std::as_const(*initial(Init::makemoe)));
  std::sort(firsts.begin(), firsts.end());
  CHECK(std::adjacent_find(firsts.begin(), firsts.end()) == firsts.end());
}

TEST_CASE("a model without some biases has the other weights of the model with them") {
  using Fewer = GPT<without_bias, NoisyTopKRouter<3, 2, NoisyTopK{.bias = true}>>;
  const auto model = initial(Init::gpt2);
  const auto fewer = std::make_unique<Fewer>();
  init(*fewer, Key{5});
  const auto& a = model->trunk.blocks.second[2].mixture.experts[1].down.weight;
  const auto& b = fewer->trunk.blocks.second[2].mixture.experts[1].down.weight;
  CHECK(same_bits(a.data(), b.data(), a.size()));
  CHECK(same_bits(model->head.weight.data(), fewer->head.weight.data(), model->head.weight.size()));
}

TEST_CASE("a fresh gpt2 model knows nothing: its loss is ln V") {
  const auto model = initial(Init::gpt2);
  const Batch batch = random_batch({4, 32}, config.vocab, 1);
  Workspace<Model> work(batch.shape);
  // logits have deviation 0.02 sqrt(48) = 0.14, which adds half its square; the mean over 128 tokens varies
  // by 0.012
  CHECK(std::abs(model->forward(batch, work).cross_entropy - std::log(65.0) - 0.01) <= 0.04);
}

TEST_CASE("a cosine router begins with scale 2") {
  using Cosine = GPT<without_bias, CosineRouter<3, 2, 8>>;
  for (const Init scheme : {Init::gpt2, Init::makemoe}) {
    const auto model = std::make_unique<Cosine>();
    init(*model, Key{5}, scheme);
    int found = 0;
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto& w) {
          if (!path.ends_with("log_scale")) return;
          CHECK(std::exp(w[0]) == Approx(2));
          ++found;
        },
        std::as_const(*model));
    CHECK(found > 0);
  }
}

TEST_CASE("fields and not names say how weights start: a norm called ln starts at one") {
  for (const Init scheme : {Init::gpt2, Init::makemoe}) {
    const auto own = std::make_unique<Own>();
    init(*own, Key{5}, scheme);
    CHECK(constant(own->ln.weight, 1));
    CHECK(constant(own->ln.bias, 0));
    CHECK(constant(own->rescale.weight, 1));
    CHECK(constant(own->off.weight, 0));
    CHECK(constant(own->scale, 0.25f));
    CHECK(constant(own->share, 1));
    for (const auto* vector : {&own->mask, &own->attention_norm, &own->count}) CHECK(constant(*vector, 0));
    CHECK(constant(own->table, 0));

    const bool gpt2 = scheme == Init::gpt2;
    const double deviation = gpt2 ? 0.02 : std::sqrt(2 / 32.0);
    for (const auto* matrix : {&own->norm, &own->down, &own->embedding, &own->output.weight})
      check_deviation("a matrix", *matrix, deviation);
    check_deviation("last", own->last.weight, gpt2 ? 0.02 / std::sqrt(2.0 * config.layers) : deviation);
    for (const auto* linear : {&own->output, &own->last}) {
      CHECK(constant(linear->bias, 0) == gpt2);
      for (const float x : linear->bias) CHECK(std::abs(x) <= 1 / std::sqrt(32.0));
    }
  }
}

TEST_CASE("the library's models keep their initial weights") {
  using namespace presets;
  constexpr Extents two = [] {
    Extents x = extents;
    x.active = 2;
    return x;
  }();
  using MaskedAndShared = SharedExperts<Masked<TopKRouter<5, 2>, 11>, 1, Shared::gated>;
  using Levels = HierarchicalRouter<TopKRouter<3, 2>, TopKRouter<2, 1>>;
  using Projected = WithSharedProjection<TopKRouter<4, 2>, 3, Activation::tanh>;
  using Noisy = NoisyTopKRouter<3, 2, NoisyTopK{.bias = true}>;
  CHECK(draws_of<ModelOf<makemoe<two>>>() == 0x23375d36a54f47d3u);
  CHECK(draws_of<ModelOf<gpt2_moe<two>>>() == 0xe9147c068e8c2547u);
  CHECK(draws_of<ModelOf<switch_base<extents>>>() == 0x0cf1fdcd537b263cu);
  CHECK(draws_of<ModelOf<gshard<extents>>>() == 0xdcb2fc4eecba0070u);
  CHECK(draws_of<ModelOf<glam<extents>>>() == 0x3f4f86743d49ca5cu);
  CHECK(draws_of<ModelOf<mixtral<two>>>() == 0x2b604858fca3804fu);
  CHECK(draws_of<ModelOf<olmoe<two>>>() == 0x4f61cae5049d9bbeu);
  CHECK(draws_of<ModelOf<qwen_moe<two>>>() == 0x88a5a1ab9de945c1u);
  CHECK(draws_of<ModelOf<deepseek_moe<grouped>>>() == 0xa2faf112a15d477du);
  CHECK(draws_of<GPT<small, MaskedAndShared>>() == 0x3273d70d7229bf91u);
  CHECK(draws_of<GPT<small, Levels>>() == 0x16f85b2e664458feu);
  CHECK(draws_of<GPT<small, Projected>>() == 0xa1a2f1a6196a8458u);
  CHECK(draws_of<GPT<small, AllowNonCausal<SoftMoE<3, 2>>>>() == 0xc8ee2e2b602e8b06u);
  CHECK(draws_of<GPT<small, AllowNonCausal<ThresholdExpertChoice<4, 2>>>>() == 0xd61ef1239850c063u);
  CHECK(draws_of<GPT<small, CosineRouter<3, 2, 8>, double>>() == 0x513c7d6c09e6f5cau);
  CHECK(draws_of<GPT<small, TopKRouter<5, 2, TopK{.selection_bias = true}>>>() == 0x3d92b5d9c35dae2du);
  CHECK(draws_of<GPT<with_all_biases, Noisy>>() == 0xbab2f0fa9c5ad97eu);
  CHECK(draws_of<GPT<without_norms, Dense>>() == 0x458a2bcbfc038d19u);
}
