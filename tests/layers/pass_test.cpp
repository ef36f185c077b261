#include <moegpt/layers/pass.hpp>

#include "support/catch.hpp"

using namespace moegpt;

TEST_CASE("without lengths there is no padding, and with them, what lies beyond a sequence's length is padding") {
  Pass pass{.shape = {2, 3}};
  CHECK(pass.tokens() == 6);
  for (Index n = 0; n < 6; ++n) CHECK_FALSE(pass.is_padding(n));
  CHECK(pass.length_of(1) == 3);
  const Index lengths[2] = {3, 1};
  pass.lengths = lengths;
  const bool expected[6] = {false, false, false, false, true, true};
  for (Index n = 0; n < 6; ++n) CHECK(pass.is_padding(n) == expected[n]);
  CHECK(pass.length_of(1) == 1);
}

TEST_CASE("without a key there is no dropout") {
  Pass pass{.objective = {.dropout = 0.3}};
  CHECK(pass.dropout() == 0);
  pass.key = Key{1};
  CHECK(pass.dropout() == 0.3);
}

TEST_CASE("each layer of a model has noise of its own, and evaluation has none in any") {
  Pass pass{.key = Key{1}};
  CHECK(pass.at_layer(0).key->value != pass.at_layer(1).key->value);
  CHECK(pass.at_layer(0).key->value != pass.key->value);
  CHECK(pass.at_layer(2).key->value == pass.at_layer(2).key->value);
  CHECK_FALSE(Pass{}.at_layer(1).key.has_value());
}

TEST_CASE("noise knows a token by the same number in one piece, among others, and one position at a time") {
  const Pass all{.shape = {3, 4}};
  for (Index n = 0; n < 12; ++n) CHECK(all.number_of(n) == n);
  const Pass last{.shape = {1, 4}, .first_token = 8};   // the third sequence alone
  for (Index t = 0; t < 4; ++t) CHECK(last.number_of(t) == 8 + t);
  const Pass step{.shape = {3, 1}, .first_position = 2, .sequence_stride = 4};   // position 2 of all three
  for (Index b = 0; b < 3; ++b) CHECK(step.number_of(b) == 4 * b + 2);
}
