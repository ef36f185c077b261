#include <moegpt/routing/input_jitter.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/rules.hpp"

#include <moegpt/routing/noisy_top_k_router.hpp>

using namespace moegpt;

namespace {

using Jittered = InputJitter<TopKRouter<5, 2>, std::ratio<1, 4>>;
template <class Recipe>
using Double = typename Recipe::template For<6, double>;

}  // namespace

TEST_CASE("the gradients of a jittered router agree with differences, with jitter and without") {
  GradcheckOptions options;
  options.pass.key = Key{3};
  SECTION("top-2") { gradcheck_three_seeds<Double<Jittered>>(options); }
  SECTION("evaluation") { gradcheck_three_seeds<Double<Jittered>>(); }
  SECTION("noisy top-3") {
    gradcheck_three_seeds<Double<InputJitter<NoisyTopKRouter<6, 3>, std::ratio<1, 4>>>>(options);
  }
  SECTION("Switch in a mixture") {
    gradcheck_three_seeds<MoELayer<InputJitter<TopKRouter<8, 1>>, Expert<6, 7, Activation::gelu, double>>>(
        options);
  }
}

TEST_CASE("jitter passes check_router") { check_rule<Jittered>(); }

TEST_CASE("without a key there is no jitter, bit for bit") {
  const Pass pass{.shape = {1, 30}};
  const RandomRoute<Jittered> jittered(pass);
  const RandomRoute<TopKRouter<5, 2>> plain(pass);
  for (Index n = 0; n < 30; ++n) CHECK(jittered.gates(n) == plain.gates(n));
}

TEST_CASE("a jittered router reads x u, with u uniform in 1 +- epsilon and different for every key") {
  const RandomRoute<Jittered> one({.shape = {1, 500}, .key = Key{5}}),
      two({.shape = {1, 500}, .key = Key{6}});
  double sum = 0, squares = 0, together = 0;
  for (Index i = 0; i < 3000; ++i) {
    const double u = (one.tape.jittered[0][i] / one.x[0][i] - 1) * 4,
                 v = (two.tape.jittered[0][i] / two.x[0][i] - 1) * 4;
    REQUIRE(std::abs(u) <= 1 + 1e-12);
    sum += u;
    squares += u * u;
    together += u * v;
  }
  CHECK(std::abs(sum / 3000) < 4 / std::sqrt(3 * 3000.0));
  CHECK(squares / 3000 == Approx(1.0 / 3).epsilon(0.05));
  CHECK(std::abs(together / 3000) < 4 / std::sqrt(9 * 3000.0));
}

TEST_CASE("experts read x without jitter") {
  using Ffn = Expert<6, 9, Activation::gelu, double>;
  MoELayer<InputJitter<TopKRouter<1, 1>>, Ffn> jittered;
  MoELayer<TopKRouter<1, 1>, Ffn> plain;
  draw_weights(jittered, 1);
  draw_weights(plain, 1);
  const auto x = random_tokens<6, double>(9, 2);
  Tokens<6, double> y(9), expected(9);
  const Pass pass{.shape = {1, 9}, .key = Key{7}};
  decltype(jittered)::Tape tape;
  decltype(jittered)::Scratch scratch;
  decltype(plain)::Tape plain_tape;
  decltype(plain)::Scratch plain_scratch;
  jittered.forward(x, y, tape, scratch, pass);
  plain.forward(x, expected, plain_tape, plain_scratch, pass);
  CHECK(same_bits(y, expected));
}

TEST_CASE("a jittered router has the weights of the inner router, by the same paths") {
  Double<Jittered> jittered;
  std::string paths;
  for_each_named_weight([&](const std::string& path, Kind, const auto&) { paths += path + ";"; }, jittered);
  CHECK(paths == "gate.weight;");
  CHECK(Jittered::text() == "InputJitter<TopKRouter<5, 2>, std::ratio<1, 4>>");
}

TEST_CASE(
    "the jitter of a token does not depend on the chunks of a long row, and a row of 2^18 needs no stack "
    "memory") {
  constexpr int D = 600;
  using Wide = InputJitter<TopKRouter<5, 2>, std::ratio<1, 4>>;
  const Key key{5};
  const RandomRoute<Wide, double, D> route({.shape = {1, 3}, .key = key});
  Buffer<double> u(3 * D);
  key.with(Purpose::router_jitter).uniforms(0, u.data(), 3 * D);
  for (Index i = 0; i < 3 * D; ++i)
    REQUIRE(route.tape.jittered[0][i] == route.x[0][i] * (1 + 0.25 * (2 * u[i] - 1)));
  check_small_stack<Wide, 1 << 18>({.key = key});
}
