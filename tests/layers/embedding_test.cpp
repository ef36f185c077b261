#include <moegpt/layers/embedding.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {
const int ids[6] = {3, 0, 3, 1, 3, 0};
}

TEST_CASE("a token gets the row of its id") {
  Embedding<4, 6> table;
  draw_weights(table, 1);
  Tokens<6, float> y(6);
  table.forward(ids, y, {.shape = {2, 3}, .exec = {2}});
  for (Index n = 0; n < 6; ++n) CHECK(same_bits(y[n], table.weight.data() + ids[n] * 6, 6));
}

TEST_CASE("each row accumulates the gradients of its tokens, and rows of absent ids none") {
  Embedding<4, 6> grad, table;
  const auto dy = random_tokens<6, float>(6, 2);
  grad.weight.eigen().setConstant(1);
  table.backward(ids, dy, grad, {.shape = {2, 3}, .exec = {2}});
  for (int i = 0; i < 6; ++i) {
    CHECK(grad.weight.eigen()(3, i) == Approx(1 + dy[0][i] + dy[2][i] + dy[4][i]));
    CHECK(grad.weight.eigen()(1, i) == 1 + dy[3][i]);
    CHECK(grad.weight.eigen()(2, i) == 1);
  }
}

TEST_CASE("the gradient of a wide table does not depend on the number of threads") {
  Embedding<4, 70> table, one, many;
  const auto dy = random_tokens<70, float>(6, 3);
  table.backward(ids, dy, one, {.shape = {2, 3}});
  table.backward(ids, dy, many, {.shape = {2, 3}, .exec = {3}});
  CHECK(same_weights(one, many));
}

TEST_CASE("positions are added by index in the sequence plus the first position of the pass") {
  Embedding<5, 6> positions;
  draw_weights(positions, 4);
  Tokens<6, float> y(6);
  y.memory().fill(2);
  positions.add_positions(y, {.shape = {2, 3}, .first_position = 2});
  for (Index n = 0; n < 6; ++n)
    for (int i = 0; i < 6; ++i) CHECK(y[n][i] == 2 + positions.weight.eigen()(2 + n % 3, i));
}

TEST_CASE("each sequence may have a first position of its own, and padding beyond the table gets nothing") {
  Embedding<5, 6> positions, grad;
  draw_weights(positions, 4);
  const Index firsts[2] = {1, 3}, lengths[2] = {3, 2};
  const Pass pass{.shape = {2, 3}, .exec = {2}, .first_positions = firsts, .lengths = lengths};
  Tokens<6, float> y(6);
  y.memory().fill(2);
  positions.add_positions(y, pass);
  const auto dy = random_tokens<6, float>(6, 5);
  positions.add_positions_backward(dy, grad, pass);
  for (int i = 0; i < 6; ++i) {
    for (Index n = 0; n < 5; ++n) CHECK(y[n][i] == 2 + positions.weight.eigen()(firsts[n / 3] + n % 3, i));
    CHECK(y[5][i] == 2);
    CHECK(grad.weight.eigen()(0, i) == 0);
    for (Index p = 1; p < 3; ++p) CHECK(grad.weight.eigen()(p, i) == dy[p - 1][i]);
    CHECK(grad.weight.eigen()(3, i) == dy[2][i] + dy[3][i]);
    CHECK(grad.weight.eigen()(4, i) == dy[4][i]);
  }
}

TEST_CASE("the gradient of positions sums over sequences") {
  Embedding<5, 6> positions, grad;
  const auto dy = random_tokens<6, float>(6, 5);
  grad.weight.eigen().setConstant(1);
  positions.add_positions_backward(dy, grad, {.shape = {2, 3}, .exec = {2}});
  for (int i = 0; i < 6; ++i) {
    for (Index t = 0; t < 3; ++t) CHECK(grad.weight.eigen()(t, i) == Approx(1 + dy[t][i] + dy[3 + t][i]));
    CHECK(grad.weight.eigen()(3, i) == 1);
  }
}

TEST_CASE("a frozen table's gradient stays empty") {
  Embedding<4, 6> table, grad;
  grad.weight.release();
  const auto dy = random_tokens<6, float>(6, 6);
  table.backward(ids, dy, grad, {.shape = {2, 3}});
  table.add_positions_backward(dy, grad, {.shape = {2, 3}});
  CHECK(grad.weight.empty());
}

TEST_CASE("an id outside the table is rejected by a message that names the token, forward and backward") {
  Embedding<4, 6> table, grad;
  Tokens<6, float> y(2);
  for (const int wrong : {4, -1, 1 << 30}) {
    const int bad[2] = {1, wrong};
    const std::string expected = "token 1 has id " + std::to_string(wrong) + ", expected 0 .. 3";
    CHECK(refusal([&] { table.forward(bad, y, {.shape = {1, 2}}); }).find(expected) != std::string::npos);
    CHECK(refusal([&] { table.backward(bad, y, grad, {.shape = {1, 2}}); }).find(expected) !=
          std::string::npos);
  }
}

TEST_CASE("positions beyond the table and a wrong number of tokens are rejected") {
  Embedding<4, 6> table, grad;
  Tokens<6, float> y(6);
  const Pass beyond{.shape = {2, 3}, .first_position = 2};
  CHECK(refusal([&] { table.add_positions(y, beyond); }).find("positions up to 5, but the table holds 4") !=
        std::string::npos);
  CHECK_FALSE(refusal([&] { table.add_positions_backward(y, grad, beyond); }).empty());
  CHECK_FALSE(refusal([&] { table.add_positions(y, {.shape = {1, 3}}); }).empty());
}
