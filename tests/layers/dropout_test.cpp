#include <moegpt/layers/dropout.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {
using L = Dropout<6, double>;
Tokens<6, double> dropped(const Pass& pass, const Tokens<6, double>& x) {
  Tokens<6, double> y(x.count());
  L::Tape tape;
  L{}.forward(x, y, tape, pass);
  return y;
}
}  // namespace

TEST_CASE("the gradient of dropout has the mask of its forward") {
  GradcheckOptions options;
  options.pass.dropout = 0.4;
  options.pass.key = Key{7};
  gradcheck_three_seeds<L>(options);
}

TEST_CASE("without a key, or with probability zero, dropout is the identity") {
  const auto x = random_tokens<6, double>(7, 1);
  CHECK(same_bits(dropped({.shape = {1, 7}, .dropout = 0.5}, x), x));
  CHECK(same_bits(dropped({.shape = {1, 7}, .key = Key{1}}, x), x));
}

TEST_CASE("a token's mask depends on its global number, not on its index in the call or on threads") {
  const auto x = random_tokens<6, double>(150, 2);
  Pass pass{.shape = {1, 150}, .dropout = 0.5, .key = Key{3}};
  const auto all = dropped(pass, x);
  pass.exec.threads = 3;
  CHECK(same_bits(all, dropped(pass, x)));
  Tokens<6, double> part(50);
  std::copy_n(x[100], 300, part[0]);
  pass.first_token = 100;
  pass.shape = {1, 50};
  CHECK(same_bits(dropped(pass, part)[0], all[100], 300));
}

TEST_CASE("dropout works in place") {
  auto x = random_tokens<6, double>(7, 4);
  const Pass pass{.shape = {1, 7}, .dropout = 0.5, .key = Key{5}};
  const auto y = dropped(pass, x);
  L::Tape tape;
  L{}.forward(x, x, tape, pass);
  CHECK(same_bits(x, y));
}

TEST_CASE("dropout rejects a probability outside 0 .. 1") {
  Tokens<4, float> x(2);
  Dropout<4> layer;
  Dropout<4>::Tape tape;
  for (const double p : {-0.1, 1.0, std::nan("")})
    CHECK_FALSE(
        refusal([&] { layer.forward(x, x, tape, {.shape = {1, 2}, .dropout = p, .key = Key{1}}); }).empty());
}
