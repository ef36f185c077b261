#include <moegpt/model/init.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/train/generate.hpp>

#include "../support/catch.hpp"

#include <memory>
#include <limits>

using namespace moegpt;

namespace {

constexpr Config config{.vocab = 7, .context = 8, .dim = 12, .layers = 2, .heads = 3, .hidden = 10};
using Model = GPT<config, TopKRouter<3, 2>>;

const Tokenizer letters = Tokenizer::characters("abcdefg");

std::unique_ptr<Model> random_model(std::uint64_t seed = 1) {
  auto model = std::make_unique<Model>();
  init(*model, Key{seed}, Init::makemoe);
  return model;
}

template <class Error = std::invalid_argument, class F>
std::string refusal(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}
bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

// Logits of these probabilities, with a constant that softmax must not see.
const std::vector<double> probability{0.05, 0.4, 0.02, 0.25, 0.18, 0.1};
std::vector<double> logits_of(const std::vector<double>& p) {
  std::vector<double> logits;
  for (const double x : p) logits.push_back(std::log(x) + 100);
  return logits;
}

std::vector<int> draws(const Sampling& sampling, int count) {
  const std::vector<double> logits = logits_of(probability);
  Sampler<double> sample(sampling);
  Rng rng(4);
  std::vector<int> of(probability.size());
  for (int i = 0; i < count; ++i)
    ++of.at(static_cast<std::size_t>(sample(logits.data(), static_cast<int>(logits.size()), rng.uniform())));
  return of;
}

// Of counts against p; where p is zero the count must be, too.
double chi_square(const std::vector<int>& of, const std::vector<double>& p) {
  double n = 0, sum = 0;
  for (const int c : of) n += c;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0 && of[i] == 0) continue;
    sum += (of[i] - n * p[i]) * (of[i] - n * p[i]) / (n * p[i]);
  }
  return sum;
}

}  // namespace

// chi-square with five degrees of freedom exceeds 25.7 once in ten thousand; less often with fewer
TEST_CASE("tokens are sampled with the probabilities of softmax") {
  CHECK(chi_square(draws({}, 20000), probability) < 25.7);
}

TEST_CASE("temperature two draws with the square roots of the probabilities") {
  std::vector<double> flat;
  double total = 0;
  for (const double p : probability) total += std::sqrt(p);
  for (const double p : probability) flat.push_back(std::sqrt(p) / total);
  CHECK(chi_square(draws({.temperature = 2}, 20000), flat) < 25.7);
}

TEST_CASE("top_k samples among the k most probable tokens in proportion, and no other") {
  CHECK(chi_square(draws({.top_k = 3}, 20000), {0, 0.4 / 0.83, 0, 0.25 / 0.83, 0.18 / 0.83, 0}) < 25.7);
}

TEST_CASE("top_p samples among the fewest most probable tokens that reach p, the last one included") {
  CHECK(chi_square(draws({.top_p = 0.5}, 20000), {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0, 0}) < 25.7);
  CHECK(draws({.top_p = 0.39}, 100) == std::vector<int>{0, 100, 0, 0, 0, 0});
}

TEST_CASE("top_p counts what top_k left") {
  // of 0.4 and 0.25, the first alone has 62 % of what is left
  CHECK(draws({.top_k = 2, .top_p = 0.6}, 100) == std::vector<int>{0, 100, 0, 0, 0, 0});
}

TEST_CASE("temperature zero, top_k one and a tiny top_p always select the most probable token") {
  for (const Sampling& sampling : {Sampling{.temperature = 0}, Sampling{.top_k = 1}, Sampling{.top_p = 1e-9}})
    CHECK(draws(sampling, 100) == std::vector<int>{0, 100, 0, 0, 0, 0});
}

TEST_CASE("of equal logits temperature zero takes the lower id") {
  const float logits[] = {1, 3, 2, 3, 3};
  CHECK(Sampler<float>({.temperature = 0})(logits, 5, 0.99) == 1);
  CHECK(Sampler<float>({.top_k = 1})(logits, 5, 0.99) == 1);
}

TEST_CASE("of equal logits top_k keeps the lower ids, and top_p stops as soon as it is reached exactly") {
  const float logits[] = {1, 1, 1, 1};
  Sampler<float> two({.top_k = 2}), half({.top_p = 0.5}), three_quarters({.top_p = 0.75}), all({.top_k = 4}),
      more({.top_k = 9});
  for (const double u : {0.0, 0.3, 0.5, 0.7, 0.999}) {
    CHECK(two(logits, 4, u) == (u < 0.5 ? 0 : 1));
    CHECK(half(logits, 4, u) == (u < 0.5 ? 0 : 1));
    CHECK(three_quarters(logits, 4, u) == static_cast<int>(3 * u));
    CHECK(all(logits, 4, u) == static_cast<int>(4 * u));
    CHECK(more(logits, 4, u) == static_cast<int>(4 * u));
  }
}

TEST_CASE(
    "a sampling of fewer ids than the model has draws none beyond them, and its defaults leave softmax "
    "alone") {
  const float logits[] = {1, 2, 3, 9};
  for (const double temperature : {0.0, 1.0})
    for (const double u : {0.0, 0.5, 0.999}) {
      CHECK(Sampler<float>({.temperature = temperature, .vocab = 3})(logits, 4, u) < 3);
      CHECK(Sampler<float>({.temperature = temperature, .vocab = 7})(logits, 4, u) ==
            Sampler<float>({.temperature = temperature})(logits, 4, u));
    }
  constexpr Sampling usual;
  STATIC_REQUIRE((usual.temperature == 1 && usual.top_k == 0 && usual.top_p == 1 && usual.vocab == 0));
}

TEST_CASE("a draw at either end of the unit interval is a token") {
  const std::vector<double> logits = logits_of(probability);
  Sampler<double> sample;
  CHECK(sample(logits.data(), 6, 0) == 1);              // the likeliest comes first
  CHECK(sample(logits.data(), 6, 1 - 0x1.0p-53) == 2);  // the least likely last
}

TEST_CASE("a sampling that makes no sense is rejected with what was found") {
  CHECK(contains(refusal([] { Sampler<float> s({.temperature = -0.5}); }), "temperature is -0.5"));
  CHECK(contains(refusal([] { Sampler<float> s({.temperature = std::nan("")}); }), "temperature is nan"));
  CHECK(contains(refusal([] { Sampler<float> s({.top_k = -1}); }), "top_k is -1"));
  for (const double p : {0.0, -0.1, 1.01})
    CHECK(contains(refusal([&] { Sampler<float> s({.top_p = p}); }), "expected a number in (0, 1]"));
}

TEST_CASE("the same seed writes the same text, and another seed another") {
  const auto model = random_model();
  CHECK(generate(*model, letters, "abc", {.tokens = 30, .seed = 3}) ==
        generate(*model, letters, "abc", {.tokens = 30, .seed = 3}));
  CHECK(generate(*model, letters, "abc", {.tokens = 30, .seed = 3}) !=
        generate(*model, letters, "abc", {.tokens = 30, .seed = 4}));
}

TEST_CASE("the number of threads does not change a text") {
  const auto model = random_model();
  CHECK(generate(*model, letters, "abc", {.tokens = 30, .exec = {.threads = 1}}) ==
        generate(*model, letters, "abc", {.tokens = 30, .exec = {.threads = 2}}));
}

TEST_CASE("as many tokens are written as asked for, also beyond the context, and each is announced") {
  const auto model = random_model();
  for (const int tokens : {0, 1, 8, 50}) {
    std::string announced;
    const std::string text =
        generate(*model, letters, "abc",
                 {.tokens = tokens, .on_token = [&](std::string_view piece) { announced += piece; }});
    CHECK(text.size() == static_cast<std::size_t>(tokens));
    CHECK(text == announced);
  }
}

TEST_CASE("an empty prompt starts with the first token") {
  const auto model = random_model();
  CHECK(generate(*model, letters, "", {.tokens = 20}) == generate(*model, letters, "a", {.tokens = 20}));
}

TEST_CASE("of a prompt longer than the context only the end is used") {
  const auto model = random_model();
  CHECK(generate(*model, letters, "ggggggabcdefga", {.tokens = 20}) ==
        generate(*model, letters, "abcdefga", {.tokens = 20}));
}

TEST_CASE("when the context is full the newer half is read again at the first positions") {
  const auto model = random_model();
  Generator<Model> generator(*model, {.temperature = 0}, Rng(1));
  const std::vector<int> ids{3, 1, 4, 1, 5, 2, 6, 0};
  generator.next(ids);
  Generator<Model> fresh(*model, {.temperature = 0}, Rng(1));
  const std::vector<int> rest{5, 2, 6, 0, 3};
  CHECK(generator.next(3) == fresh.next(rest));
  CHECK(generator.next(2) == fresh.next(2));  // and both go on alike
}

TEST_CASE("a long piece read into a full context keeps its own tokens before older ones") {
  const auto model = random_model();
  Generator<Model> generator(*model, {.temperature = 0}, Rng(1)), fresh(*model, {.temperature = 0}, Rng(1));
  generator.next(std::vector<int>{3, 1, 4, 1, 5});
  const std::vector<int> long_piece{6, 5, 4, 3, 2, 1}, expected{1, 5, 6, 5, 4, 3, 2, 1};
  CHECK(generator.next(long_piece) == fresh.next(expected));
}

TEST_CASE("a rejected id leaves a generator as it was") {
  const auto model = random_model();
  Generator<Model> generator(*model, {.temperature = 0}, Rng(1)), other(*model, {.temperature = 0}, Rng(1));
  CHECK(generator.next(std::vector<int>{1, 2}) == other.next(std::vector<int>{1, 2}));
  CHECK(contains(refusal([&] { generator.next(7); }), "token id 7, expected 0 .. 6"));
  int id = 3;
  for (int i = 0; i < 20; ++i) {  // the context slides on the way
    CHECK(contains(refusal([&] { generator.next(-1); }), "token id -1, expected 0 .. 6"));
    const int next = generator.next(id);
    CHECK(next == other.next(id));
    id = next;
  }
}

TEST_CASE("a prompt with a character that the tokenizer does not know is rejected by that character") {
  const auto model = random_model();
  CHECK(contains(refusal([&] { generate(*model, letters, "abxc"); }), "'x' (U+0078) at byte 2"));
}

TEST_CASE("a tokenizer with more tokens than the model is rejected with both numbers") {
  const auto model = random_model();
  CHECK(contains(refusal([&] { generate(*model, Tokenizer::bytes(), "abc"); }),
                 "the tokenizer has 256 tokens, the model only 7"));
}

TEST_CASE("a generator rejects an empty prompt") {
  const auto model = random_model();
  Generator<Model> generator(*model, {}, Rng(1));
  CHECK(contains(refusal([&] { generator.next(std::span<const int>{}); }), "the prompt has no tokens"));
}

TEST_CASE("a model with NaN in a weight generates an error that names it") {
  const auto model = random_model();
  model->head.weight[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK(contains(refusal<std::runtime_error>([&] { generate(*model, letters, "abc"); }), "head.weight[5]"));
}

TEST_CASE("generation keeps to the allowed experts") {
  const auto model = random_model();
  const AllowedExperts<TopKRouter<3, 2>> some{0, 2};
  const std::string text = generate(*model, letters, "abc", {.tokens = 30, .seed = 3, .allowed = some});
  auto without = std::make_unique<Model>(*model);  // nobody asks expert 1, so its weights do not matter
  for_each_named_weight(
      [](const std::string& path, Kind, auto& w) {
        if (path.find("experts.1.") != std::string::npos)
          for (auto& x : w) x = 100;
      },
      *without);
  CHECK(text == generate(*without, letters, "abc", {.tokens = 30, .seed = 3, .allowed = some}));
  CHECK(text != generate(*model, letters, "abc", {.tokens = 30, .seed = 3}));
  const bool one[3] = {true, false, false};
  CHECK(contains(refusal([&] { generate(*model, letters, "abc", {.allowed = one}); }), "1 of 3 experts"));
}

TEST_CASE("generation uses the masks of its task") {
  using Tasks = GPT<config, Masked<TopKRouter<3, 2>, 2>>;
  auto model = std::make_unique<Tasks>();
  init(*model, Key{1}, Init::makemoe);
  for_each_named_weight(
      [](const std::string& path, Kind, auto& w) {
        if (path.ends_with("mask.1"))
          for (auto& x : w) x = -3;
      },
      *model);
  const auto write = [&](int task) {
    return generate(*model, letters, "abc", {.tokens = 30, .seed = 3, .task = task});
  };
  CHECK(write(0) == generate(*model, letters, "abc", {.tokens = 30, .seed = 3}));
  CHECK(write(0) != write(1));
  CHECK(contains(refusal([&] { write(2); }), "task 2"));
}

TEST_CASE("an id whose logit is minus infinity is never drawn, whatever the sampling") {
  const float banned = -std::numeric_limits<float>::infinity();
  const float logits[5] = {banned, 1, banned, 0.5f, banned}, one[3] = {banned, -1e30f, banned};
  for (const Sampling& sampling : {Sampling{}, Sampling{.temperature = 0}, Sampling{.temperature = 1e9},
                                   Sampling{.top_k = 4}, Sampling{.top_p = 1e-9}, Sampling{.vocab = 4}}) {
    Sampler<float> sample(sampling);
    for (const double u : {0.0, 0.3, 0.9, 1 - 0x1.0p-53}) {
      const int id = sample(logits, 5, u);
      CHECK((id == 1 || id == 3));
      CHECK(sample(one, 3, u) == 1);
    }
  }
}

TEST_CASE("a row that bans every id, or holds NaN or plus infinity, is rejected") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float none[3] = {-inf, -inf, -inf}, beyond[3] = {-inf, -inf, 1}, not_a_number[3] = {1, nan, 2},
              infinite[3] = {1, 2, inf}, all_infinite[3] = {inf, inf, inf};
  for (const Sampling& sampling : {Sampling{}, Sampling{.temperature = 0}, Sampling{.top_k = 1}}) {
    Sampler<float> sample(sampling);
    CHECK(contains(refusal([&] { sample(none, 3, 0.5); }), "all 3 logits are minus infinity"));
    CHECK(contains(refusal([&] { sample(not_a_number, 3, 0.5); }), "logit 1 is nan"));
    CHECK(contains(refusal([&] { sample(infinite, 3, 0.5); }), "logit 2 is inf"));
    CHECK(contains(refusal([&] { sample(all_infinite, 3, 0.5); }), "logit 0 is inf"));
  }
  Sampler<float> narrow({.vocab = 2});  // the only one left is not the tokenizer's
  CHECK(contains(refusal([&] { narrow(beyond, 3, 0.5); }), "all 2 logits are minus infinity"));
}

TEST_CASE("rows of equal or enormous logits are drawn from like any other") {
  const float equal[4] = {2, 2, 2, 2}, enormous[3] = {3e38f, -3e38f, 3e38f};
  Sampler<float> sample;
  CHECK(sample(equal, 4, 0) == 0);
  CHECK(sample(equal, 4, 0.6) == 2);
  CHECK(sample(equal, 4, 1 - 0x1.0p-53) == 3);
  CHECK(sample(enormous, 3, 0.4) == 0);
  CHECK(sample(enormous, 3, 0.6) == 2);
}

TEST_CASE("a draw from no logits, a draw with u outside 0 .. 1 and a sampling without bounds are rejected") {
  const float logits[2] = {1, 2};
  Sampler<float> sample;
  for (const int vocab : {0, -1})
    CHECK(contains(refusal([&] { sample(logits, vocab, 0.5); }), "no token to draw"));
  for (const double u : {-0.1, 1.0, std::nan("")})
    CHECK(contains(refusal([&] { sample(logits, 2, u); }), "expected a number in [0, 1)"));
  CHECK(contains(refusal([] { Sampler<float> s({.temperature = std::numeric_limits<double>::infinity()}); }),
                 "temperature is inf, expected a finite number"));
  CHECK(contains(refusal([] { Sampler<float> s({.top_p = std::nan("")}); }), "top_p is nan"));
  CHECK(contains(refusal([] { Sampler<float> s({.vocab = -1}); }), "vocab of the sampling is -1"));
}
