#include <moegpt/layers/rotary.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

Tokens<8, double> rotated(const Tokens<8, double>& x, const Pass& pass, bool back = false) {
  RotaryTable<double> table;
  table.resize(2, pass);
  table.compute(rotary_of(2, Pairing::halves, RotaryScaling::none, pass.options), pass);
  auto y = x;
  back ? table.rotate_back(y, 4, pass) : table.rotate(y, 4, pass);
  return y;
}

}  // namespace

TEST_CASE("the first features of each head are rotated by the position of their token") {
  const auto x = random_tokens<8, double>(6, 1);
  const Index firsts[] = {5, 40};
  const auto y = rotated(x, {.shape = {2, 3}, .first_positions = firsts});
  for (Index n = 0; n < 6; ++n)
    for (int head = 0; head < 2; ++head) {
      const double* from = x[n] + 4 * head;
      const double angle = static_cast<double>(firsts[n / 3] + n % 3);  // the frequency of pair 0 is 1
      CHECK(y[n][4 * head] == Approx(from[0] * std::cos(angle) - from[1] * std::sin(angle)));
      CHECK(y[n][4 * head + 1] == Approx(from[1] * std::cos(angle) + from[0] * std::sin(angle)));
      CHECK(y[n][4 * head + 2] == from[2]);
      CHECK(y[n][4 * head + 3] == from[3]);
    }
}

TEST_CASE("rotate_back is the inverse of rotate") {
  const auto x = random_tokens<8, double>(6, 2);
  const Pass pass{.shape = {2, 3}, .exec = {2}, .first_position = 7};
  const auto y = rotated(rotated(x, pass), pass, true);
  CHECK(distance(y[0], x[0], 48) < 1e-14);
}

TEST_CASE("yarn and llama3 need the context of training") {
  for (const RotaryScaling scaling : {RotaryScaling::yarn, RotaryScaling::llama3})
    CHECK(refusal([&] { rotary_of(4, Pairing::halves, scaling, {}); }).find("rotary_context is 0") !=
          std::string::npos);
  CHECK(rotary_of(4, Pairing::halves, RotaryScaling::ntk, {.rotary_factor = 3}).factor == 3);
}
