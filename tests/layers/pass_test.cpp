#include <moegpt/layers/pass.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include <limits>

using namespace moegpt;

TEST_CASE(
    "without lengths there is no padding, and with them, tokens beyond a sequence's length are padding") {
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
  Pass pass{.dropout = 0.3};
  CHECK(pass.applied_dropout() == 0);
  pass.key = Key{1};
  CHECK(pass.applied_dropout() == 0.3);
}

TEST_CASE("each layer of a model has its own noise, and evaluation has none") {
  Pass pass{.key = Key{1}};
  CHECK(pass.at_layer(0).key->value != pass.at_layer(1).key->value);
  CHECK(pass.at_layer(0).key->value != pass.key->value);
  CHECK(pass.at_layer(2).key->value == pass.at_layer(2).key->value);
  CHECK(pass.at_layer(2).layer == 2);
  CHECK(Pass{}.layer == 0);
  CHECK_FALSE(Pass{}.at_layer(1).key.has_value());
}

TEST_CASE(
    "the global number of a token is the same in one call, in a part of the batch, and one position at a "
    "time") {
  const Pass all{.shape = {3, 4}};
  for (Index n = 0; n < 12; ++n) CHECK(all.number_of(n) == n);
  const Pass last{.shape = {1, 4}, .first_token = 8};  // the third sequence alone
  for (Index t = 0; t < 4; ++t) CHECK(last.number_of(t) == 8 + t);
  const Pass step{.shape = {3, 1}, .first_position = 2, .sequence_stride = 4};  // position 2 of all three
  for (Index b = 0; b < 3; ++b) CHECK(step.number_of(b) == 4 * b + 2);
  const Index firsts[3] = {2, 0, 1};  // two more tokens of sequences of different lengths
  const Pass ragged{.shape = {3, 2}, .first_positions = firsts, .sequence_stride = 4};
  for (Index b = 0; b < 3; ++b)
    for (Index t = 0; t < 2; ++t) CHECK(ragged.number_of(2 * b + t) == 4 * b + firsts[b] + t);
}

TEST_CASE("a sequence ends after its last token that is not padding") {
  const Index firsts[3] = {5, 0, 7}, lengths[3] = {2, 3, 0};
  const Pass pass{.shape = {3, 3}, .first_position = 4};
  CHECK(pass.end_of(2) == 7);
  const Pass ragged{.shape = {3, 3}, .first_position = 4, .first_positions = firsts, .lengths = lengths};
  for (Index b = 0; b < 3; ++b) CHECK(ragged.end_of(b) == firsts[b] + lengths[b]);
  CHECK(ragged.most_positions() == 7);
}

TEST_CASE("default options and a default pass are those of a dropless model in evaluation") {
  constexpr ModelOptions options;  // PyTorch's LayerNorm; Su et al. 2021
  STATIC_REQUIRE(
      (options.norm_epsilon == 1e-5 && options.rotary_base == 10000 && options.attention_scale == 0));
  STATIC_REQUIRE((options.capacity_factor == 0 && options.min_capacity == 0));
  constexpr Pass pass;
  STATIC_REQUIRE((pass.dropout == 0 && !pass.key && !pass.partial && !pass.routing));
  STATIC_REQUIRE(pass.exec.threads == 1);
}

TEST_CASE("an invalid pass is rejected by a message that names the field") {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  const auto says = [](const Pass& pass, const std::string& part) {
    const std::string found = refusal([&] { pass.check_fits(pass.tokens(), pass.tokens()); });
    INFO(found);
    CHECK(found.find(part) != std::string::npos);
  };
  CHECK(refusal([] { Pass{.shape = {2, 3}}.check_fits(6, 6); }).empty());
  says({.shape = {-1, -1}}, "-1 x -1 tokens");
  says({.shape = {2, 3}, .first_position = -1}, "first_position is -1");
  says({.shape = {2, 3}, .first_token = -4}, "first_token -4");
  says({.shape = {2, 3}, .sequence_stride = 2}, "sequence_stride is 2");
  const Index beyond[2] = {3, 4}, negative[2] = {-1, 3};
  says({.shape = {2, 3}, .first_positions = negative}, "first_positions[0] is -1");
  says({.shape = {2, 3}, .lengths = beyond}, "lengths[1] is 4, expected 0 .. 3");
  says({.shape = {2, 3}, .lengths = negative}, "lengths[0] is -1");
  says({.exec = {1 << 20}}, "1048576 threads");
  for (const double x : {0.0, -1.0, nan, inf}) {
    says({.options = {.norm_epsilon = x}}, "norm_epsilon is ");
    says({.options = {.rotary_base = x}}, "rotary_base is ");
  }
  for (const double x : {-1.0, nan, inf}) {
    says({.options = {.attention_scale = x}}, "attention_scale is ");
    says({.options = {.min_capacity = x}}, "min_capacity is ");
    says({.options = {.qkv_clip = x}}, "qkv_clip is ");
    says({.options = {.embedding_scale = x}}, "embedding_scale is ");
    says({.options = {.residual_scale = x}}, "residual_scale is ");
    says({.options = {.logit_scale = x}}, "logit_scale is ");
    says({.options = {.rotary_factor = x}}, "rotary_factor is ");
    says({.options = {.rotary_context = x}}, "rotary_context is ");
    says({.options = {.rotary_slow = x}}, "rotary_slow is ");
    says({.options = {.rotary_fast = x}}, " and rotary_fast ");
    says({.options = {.rotary_magnitude = x}}, "rotary_magnitude is ");
  }
  for (const double x : {-0.1, 1.0, 1.5, nan}) says({.dropout = x}, "pass.dropout is ");
}
