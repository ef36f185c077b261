#include <moegpt/core/random.hpp>
#include <moegpt/generate/sampler.hpp>

#include "support.hpp"

#include <map>

namespace {

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
TEST_CASE("tokens are drawn with the probabilities of softmax") {
  CHECK(chi_square(draws({}, 20000), probability) < 25.7);
}

TEST_CASE("temperature two draws with the square roots of the probabilities") {
  std::vector<double> flat;
  double total = 0;
  for (const double p : probability) total += std::sqrt(p);
  for (const double p : probability) flat.push_back(std::sqrt(p) / total);
  CHECK(chi_square(draws({.temperature = 2}, 20000), flat) < 25.7);
}

TEST_CASE("top_k draws among the k likeliest in their proportions and never another") {
  CHECK(chi_square(draws({.top_k = 3}, 20000), {0, 0.4 / 0.83, 0, 0.25 / 0.83, 0.18 / 0.83, 0}) < 25.7);
}

TEST_CASE("top_p draws among the fewest that reach p, the one that crosses it included") {
  CHECK(chi_square(draws({.top_p = 0.5}, 20000), {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0, 0}) < 25.7);
  CHECK(draws({.top_p = 0.39}, 100) == std::vector<int>{0, 100, 0, 0, 0, 0});
}

TEST_CASE("top_p counts what top_k left") {
  // of 0.4 and 0.25, the first alone has 62 % of what is left
  CHECK(draws({.top_k = 2, .top_p = 0.6}, 100) == std::vector<int>{0, 100, 0, 0, 0, 0});
}

TEST_CASE("temperature zero, top_k one and a tiny top_p always take the likeliest token") {
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

TEST_CASE("a sampling of fewer ids draws none beyond them, and its defaults leave softmax alone") {
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

TEST_CASE("a sampling that makes no sense is refused with what was found") {
  CHECK(contains(refusal([] { Sampler<float> s({.temperature = -0.5}); }), "temperature is -0.5"));
  CHECK(contains(refusal([] { Sampler<float> s({.temperature = std::nan("")}); }), "temperature is nan"));
  CHECK(contains(refusal([] { Sampler<float> s({.top_k = -1}); }), "top_k is -1"));
  for (const double p : {0.0, -0.1, 1.01})
    CHECK(contains(refusal([&] { Sampler<float> s({.top_p = p}); }), "expected a number in (0, 1]"));
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

TEST_CASE("a row that bans every id, or holds NaN or plus infinity, is refused") {
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

TEST_CASE("a draw from no logits, a draw with u outside 0 .. 1 and a sampling without bounds are refused") {
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

namespace {

// The same steps over a sorted list of all ids.
int plain_draw(const Sampling& s, std::vector<float> z, const std::vector<int>& prompt,
               const std::vector<int>& text, double u) {
  for (const LogitBias& b : s.bias) z[static_cast<std::size_t>(b.id)] += static_cast<float>(b.value);
  std::map<int, int> times;
  for (const int id : prompt) times[id] += 0;
  for (const int id : text) ++times[id];
  for (const auto& [id, n] : times) {
    double x = z[static_cast<std::size_t>(id)];
    x = x > 0 ? x / s.repetition_penalty : x * s.repetition_penalty;
    z[static_cast<std::size_t>(id)] =
        static_cast<float>(x - (n > 0) * s.presence_penalty - n * s.frequency_penalty);
  }
  for (const int id : s.banned) z[static_cast<std::size_t>(id)] = -std::numeric_limits<float>::infinity();
  std::vector<std::pair<float, int>> order;
  for (std::size_t i = 0; i < z.size() && (s.vocab == 0 || i < static_cast<std::size_t>(s.vocab)); ++i)
    order.emplace_back(-z[i], static_cast<int>(i));
  std::sort(order.begin(), order.end());
  if (s.temperature == 0) return order[0].second;
  if (s.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(s.top_k)));
  const auto p = [&](std::size_t i) {
    return std::exp(static_cast<double>(order[0].first - order[i].first) / s.temperature);
  };
  double total = 0, kept = 0;
  for (std::size_t i = 0; i < order.size(); ++i) total += p(i);
  std::size_t n = 0;
  while (n < order.size() && (n == 0 || kept < s.top_p * total)) kept += p(n++);
  if (s.top_p == 1) n = order.size();
  while (n > 1 && p(n - 1) < s.min_p) --n;
  kept = 0;
  for (std::size_t i = 0; i < n; ++i) kept += p(i);
  double below = 0;
  for (std::size_t i = 0; i < n; ++i)
    if ((below += p(i)) > u * kept) return order[i].second;
  return order[n - 1].second;
}

}  // namespace

TEST_CASE("draws are those of a plain implementation that sorts, for all settings together") {
  Rng rng(11);
  const auto one_of = [&](auto... x) {
    const double all[] = {static_cast<double>(x)...};
    return all[rng.below(sizeof...(x))];
  };
  for (int round = 0; round < 3000; ++round) {
    const int vocab = static_cast<int>(1 + rng.below(round % 10 == 0 ? 3000 : 40));
    const auto any = [&] { return static_cast<int>(rng.below(static_cast<std::uint64_t>(vocab))); };
    std::vector<float> z(static_cast<std::size_t>(vocab));
    const bool ties = rng.below(3) == 0;
    for (float& x : z) x = static_cast<float>(ties ? static_cast<double>(rng.below(4)) : 3 * rng.normal());
    Sampling s{.temperature = one_of(0, 0.5, 1, 2),
               .top_k = static_cast<int>(one_of(0, 1, 3, 50)),
               .top_p = one_of(1, 0.9, 0.5, 0.01),
               .min_p = one_of(0, 0, 0.05, 1),
               .repetition_penalty = one_of(1, 1, 1.3, 0.7),
               .presence_penalty = one_of(0, 0, 1.5, -1),
               .frequency_penalty = one_of(0, 0, 0.25, -0.5)};
    if (rng.below(2) == 0 && vocab > 1) s.banned = {any()};
    if (rng.below(2) == 0) s.bias = {{any(), 2.5}, {any(), -3}};
    std::vector<int> prompt(rng.below(6)), text(rng.below(6));
    for (auto* ids : {&prompt, &text})
      for (int& id : *ids) id = any();
    Sampler<float> sample(s);
    sample.read(prompt);
    for (const int id : text) sample.accept(id);
    for (int i = 0; i < 5; ++i) {
      const double u = rng.uniform();
      INFO("round " << round << ", vocab " << vocab << ", u " << u);
      REQUIRE(sample(z.data(), vocab, u) == plain_draw(s, z, prompt, text, u));
    }
  }
}

TEST_CASE("penalties change logits by their published formulas") {
  const float z[4] = {2, 2.5f, -1, 1.75f};
  const auto likeliest = [&](Sampling s, std::vector<int> prompt, std::vector<int> text) {
    s.temperature = 0;
    Sampler<float> sample(s);
    sample.read(prompt);
    for (const int id : text) sample.accept(id);
    return sample(z, 4, 0);
  };
  CHECK(likeliest({}, {1}, {1}) == 1);
  CHECK(likeliest({.repetition_penalty = 1.25}, {1}, {}) == 0);  // 2.5 / 1.25 = 2: a tie with the lower id
  CHECK(likeliest({.repetition_penalty = 1.24}, {1}, {1, 1}) == 1);  // how often does not matter
  CHECK(likeliest({.presence_penalty = 0.5}, {}, {1}) == 0);
  CHECK(likeliest({.presence_penalty = 0.49}, {}, {1, 1}) == 1);
  CHECK(likeliest({.presence_penalty = 9, .frequency_penalty = 9}, {1, 1, 1}, {}) == 1);  // not of the prompt
  CHECK(likeliest({.frequency_penalty = 0.25}, {}, {1}) == 1);
  CHECK(likeliest({.frequency_penalty = 0.25}, {}, {1, 1}) == 0);
  CHECK(likeliest({.frequency_penalty = 0.25, .bias = {{3, 0.25}}}, {}, {1, 1, 1, 0}) == 3);
  // a negative logit is multiplied: -1 * 0.5 = -0.5, still last, and 4 * -1 = -4 no longer beats a bias of
  // -5.5
  CHECK(likeliest({.repetition_penalty = 4, .bias = {{0, -5.5}, {1, -9}, {3, -9}}}, {2}, {}) == 0);
  CHECK(likeliest({.repetition_penalty = 3, .bias = {{0, -5.5}, {1, -9}, {3, -9}}}, {2}, {}) == 2);
}

TEST_CASE("a forgotten text has no penalties, and a restart takes other options") {
  const float z[2] = {1, 2};
  Sampler<float> sample({.temperature = 0, .frequency_penalty = 2});
  sample.accept(1);
  CHECK(sample(z, 2, 0) == 0);
  sample.forget();
  CHECK(sample(z, 2, 0) == 1);
  sample.accept(1);
  sample.restart({.temperature = 0, .banned = {1}});
  CHECK(sample(z, 2, 0) == 0);
  sample.restart({.temperature = 0, .frequency_penalty = 2});
  CHECK(sample(z, 2, 0) == 1);
}

TEST_CASE("log-probabilities are those of the model, whatever the sampling") {
  const float z[5] = {1, 3, -2, 3, 0};
  double sum = 0;
  for (const float x : z) sum += std::exp(static_cast<double>(x));
  Sampler<float> sample(
      {.temperature = 0.1, .vocab = 5, .bias = {{1, -50}}, .banned = {0}, .log_probabilities = 3});
  for (int id = 0; id < 5; ++id) CHECK(sample.log_probability(z, 5, id) == Approx(z[id] - std::log(sum)));
  const auto best = sample.likeliest(z, 5);
  REQUIRE(best.size() == 3);
  const int ids[] = {1, 3, 0};
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(best[i].id == ids[i]);
    CHECK(best[i].log_probability == Approx(z[ids[i]] - std::log(sum)));
  }
  CHECK(Sampler<float>({.vocab = 2, .log_probabilities = 9}).likeliest(z, 5).size() == 2);
  CHECK(Sampler<float>({.vocab = 2}).log_probability(z, 5, 0) == Approx(-std::log1p(std::exp(2.0))));
  CHECK(Sampler<float>().likeliest(z, 5).empty());
  CHECK(contains(refusal([&] { Sampler<float>({.vocab = 2}).log_probability(z, 5, 2); }), "expected 0 .. 1"));
}

// Seeds are fixed, so a result is always the same. chi-square with 30 degrees of freedom exceeds 70 with
// probability 5e-5
TEST_CASE("a million draws have the probabilities of each setting") {
  constexpr int V = 31;
  std::vector<float> z(V);
  Rng make(8);
  for (float& x : z) x = static_cast<float>(1.5 * make.normal());
  for (const Sampling& s :
       {Sampling{}, Sampling{.temperature = 0.7}, Sampling{.temperature = 1.5, .top_k = 12},
        Sampling{.top_p = 0.8}, Sampling{.min_p = 0.1},
        Sampling{.top_k = 20,
                 .top_p = 0.9,
                 .min_p = 0.05,
                 .repetition_penalty = 1.2,
                 .presence_penalty = 0.5,
                 .frequency_penalty = 0.3,
                 .bias = {{4, 1}},
                 .banned = {7}}}) {
    Sampler<float> sample(s);
    const std::vector<int> prompt{1, 2, 3}, text{3, 5, 5};
    sample.read(prompt);
    for (const int id : text) sample.accept(id);
    // the plain implementation's shares of [0, 1), by bisection for the ends of each id's interval
    std::vector<double> p(V);
    for (double at = 0; at < 1;) {
      const int id = plain_draw(s, z, prompt, text, at);
      double low = at, high = 1;
      for (int i = 0; i < 60; ++i) {
        const double middle = (low + high) / 2;
        (middle < 1 && plain_draw(s, z, prompt, text, middle) == id ? low : high) = middle;
      }
      p[static_cast<std::size_t>(id)] += high - at;
      at = high;
    }
    std::vector<int> of(V);
    Rng rng(21);
    for (int i = 0; i < 1000000; ++i) ++of[static_cast<std::size_t>(sample(z.data(), V, rng.uniform()))];
    CHECK(chi_square(of, p) < 70);
  }
}

TEST_CASE("a banned id, a bias of minus infinity and a logit of minus infinity are never drawn") {
  const float inf = std::numeric_limits<float>::infinity(), z[4] = {5, 6, -inf, -3};
  for (const double temperature : {0.0, 1.0, 1e6}) {
    Sampler<float> sample({.temperature = temperature,
                           .repetition_penalty = 0.5,
                           .frequency_penalty = -3,
                           .bias = {{1, -std::numeric_limits<double>::infinity()}, {2, 100}},
                           .banned = {0}});
    sample.accept(0), sample.accept(1), sample.accept(2);
    for (const double u : {0.0, 0.5, 0.999}) CHECK(sample(z, 4, u) == 3);
  }
  Sampler<float> none({.banned = {0, 1, 3}});
  CHECK(contains(refusal([&] { none(z, 4, 0.5); }), "all 4 logits are minus infinity: every id is banned"));
}

TEST_CASE("penalties and biases that leave the numbers of the type, or ids of the row, are refused") {
  const float z[2] = {3e38f, 1};
  Sampler<float> large({.bias = {{0, 3e38}}});
  CHECK(contains(refusal([&] { large(z, 2, 0.5); }), "logit 0, with its bias and penalties, is inf"));
  Sampler<float> bias({.bias = {{2, 1}}}), banned({.banned = {7}}), text({.presence_penalty = 1});
  text.accept(4);
  CHECK(contains(refusal([&] { bias(z, 2, 0.5); }), "a logit bias is for id 2, but a row has 2 logits"));
  CHECK(contains(refusal([&] { banned(z, 2, 0.5); }), "banned is id 7"));
  CHECK(contains(refusal([&] { text(z, 2, 0.5); }), "the text has id 4"));
  CHECK(contains(refusal([&] { text.accept(-1); }), "an id of the text is -1"));
  const double inf = std::numeric_limits<double>::infinity();
  const std::pair<Sampling, const char*> senseless[] = {
      {{.min_p = 1.5}, "min_p is 1.5"},
      {{.min_p = -0.1}, "min_p is -0.1"},
      {{.min_p = inf - inf}, "min_p is"},
      {{.repetition_penalty = 0}, "repetition_penalty is 0"},
      {{.repetition_penalty = inf}, "repetition_penalty is inf"},
      {{.presence_penalty = inf}, "presence_penalty is inf"},
      {{.frequency_penalty = -inf}, "frequency_penalty is -inf"},
      {{.bias = {{-1, 0}}}, "a logit bias is for id -1"},
      {{.bias = {{1, inf}}}, "the logit bias of id 1 is inf"},
      {{.banned = {-4}}, "a banned id is -4"},
      {{.log_probabilities = -2}, "log_probabilities is -2"}};
  for (const auto& [sampling, expected] : senseless)
    CHECK(contains(refusal([&, &s = sampling] { Sampler<float> sample(s); }), expected));
}
