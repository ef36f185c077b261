#include <moegpt/layers/attention.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

constexpr AttentionShape multi_head{.dim = 6, .heads = 2};
constexpr AttentionShape grouped{
    .dim = 6, .heads = 4, .kv_heads = 2, .head_dim = 4, .rotary = true, .bias = true, .output_bias = false};
constexpr AttentionShape bidirectional{.dim = 6, .heads = 3, .kv_heads = 1, .mask = Mask::full};

using Grouped = Attention<grouped, double>;

template <class L>
struct Run {
  using T = typename L::Scalar;
  Tokens<6, T> y, dx;
  typename L::Tape tape;
  typename L::Scratch scratch;
  void forward(const L& layer, const Tokens<6, T>& x, const Pass& pass) {
    y.resize(pass.tokens());
    layer.forward(x, y, tape, scratch, pass);
  }
};

}  // namespace

TEST_CASE("the gradients of attention agree with differences: many, grouped and unmasked heads") {
  SECTION("multi-head, causal") { gradcheck_three_seeds<Attention<multi_head, double>>(); }
  SECTION("grouped, rotary, biases, explicit head_dim") { gradcheck_three_seeds<Grouped>(); }
  SECTION("full mask, one key/value head") { gradcheck_three_seeds<Attention<bidirectional, double>>(); }
}

TEST_CASE("the gradients of attention agree with differences with padding, dropout and a scale of its own") {
  const Index lengths[2] = {5, 2};
  GradcheckOptions options;
  SECTION("padding") { options.pass.lengths = lengths; }
  SECTION("dropout") {
    options.pass.dropout = 0.3;
    options.pass.key = Key{5};
  }
  SECTION("scale 1 / sqrt(dim), another rotary base") {
    options.pass.options.attention_scale = 1 / std::sqrt(6.0);
    options.pass.options.rotary_base = 50;
  }
  SECTION("all of it") {
    options.pass.lengths = lengths;
    options.pass.dropout = 0.3;
    options.pass.key = Key{6};
    options.pass.options.attention_scale = 0.9;
  }
  gradcheck_three_seeds<Grouped>(options);
  gradcheck_three_seeds<Attention<bidirectional, double>>(options);
}

TEST_CASE("the gradients of attention agree with differences for a sequence longer than a block of queries") {
  GradcheckOptions options;
  options.pass.shape = {1, 67};
  options.per_tensor = 12;
  gradcheck_three_seeds<Attention<multi_head, double>>(options);
}

TEMPLATE_TEST_CASE("a sequence has the same bits alone and among others (law 6)", "", float, double) {
  using L = Attention<grouped, TestType>;
  L layer;
  draw_weights(layer, 1);
  const auto x = random_tokens<6, TestType>(21, 2);
  Run<L> all, alone;
  all.forward(layer, x, {.shape = {3, 7}, .exec = {2}});
  Tokens<6, TestType> one(7);
  for (Index b = 0; b < 3; ++b) {
    std::copy_n(x[7 * b], 42, one[0]);
    alone.forward(layer, one, {.shape = {1, 7}});
    CHECK(same_bits(alone.y[0], all.y[7 * b], 42));
  }
}

TEMPLATE_TEST_CASE("with a cache, pieces and single tokens have the bits of the whole sequence (law 6)", "", float,
                   double) {
  using L = Attention<grouped, TestType>;
  constexpr Index length = 70, batch = 2, capacity = 80;
  L layer;
  draw_weights(layer, 3);
  const auto x = random_tokens<6, TestType>(batch * length, 4);
  Run<L> whole, step;
  whole.forward(layer, x, {.shape = {batch, length}});
  for (const Index piece : {1, 7, 70}) {
    Tokens<L::Dkv, TestType> keys(batch * capacity), values(batch * capacity);
    const KeyValues<L::Dkv, TestType> cache{keys, values, capacity};
    for (Index first = 0; first < length; first += piece) {
      Tokens<6, TestType> part(batch * piece);
      for (Index b = 0; b < batch; ++b) std::copy_n(x[b * length + first], piece * 6, part[b * piece]);
      step.y.resize(batch * piece);
      layer.forward(part, step.y, step.tape, step.scratch,
                    {.shape = {batch, piece}, .exec = {2}, .first_position = first}, &cache);
      for (Index b = 0; b < batch; ++b)
        REQUIRE(same_bits(step.y[b * piece], whole.y[b * length + first], piece * 6));
    }
  }
}

TEMPLATE_TEST_CASE("sequences of different lengths continue in a cache with the bits that each has alone (law 6)", "",
                   float, double) {
  using L = Attention<grouped, TestType>;
  constexpr Index length = 70, batch = 3, capacity = 70, piece = 30;
  const Index steps[][batch] = {{30, 1, 17}, {0, 30, 1}, {1, 1, 1}, {1, 0, 1}, {30, 30, 30}, {8, 8, 20}};   // of 70
  L layer;
  draw_weights(layer, 3);
  const auto x = random_tokens<6, TestType>(batch * length, 4);
  for (const std::optional<Key> key : {std::optional<Key>{}, std::optional<Key>{Key{9}}}) {
    Run<L> whole, step;
    whole.forward(layer, x, {.shape = {batch, length}, .dropout = 0.3, .key = key});
    Tokens<L::Dkv, TestType> keys(batch * capacity), values(batch * capacity);
    const KeyValues<L::Dkv, TestType> cache{keys, values, capacity};
    Index held[batch] = {};
    for (const auto& counts : steps) {
      Tokens<6, TestType> part(batch * piece);
      part.memory().fill(TestType(7));   // padding
      for (Index b = 0; b < batch; ++b) std::copy_n(x[b * length + held[b]], counts[b] * 6, part[b * piece]);
      step.y.resize(batch * piece);
      layer.forward(part, step.y, step.tape, step.scratch,
                    {.shape = {batch, piece}, .exec = {2}, .dropout = 0.3, .key = key, .first_positions = held,
                     .sequence_stride = length, .lengths = counts}, &cache);
      for (Index b = 0; b < batch; ++b) {
        REQUIRE(same_bits(step.y[b * piece], whole.y[b * length + held[b]], counts[b] * 6));
        held[b] += counts[b];
      }
    }
    for (Index b = 0; b < batch; ++b) CHECK(held[b] == length);
  }
}

TEST_CASE("without a scale of its own attention divides by the root of the width of a head, whatever the model's") {
  const auto check_scale = [](auto layer) {
    using L = decltype(layer);
    draw_weights(layer, 11);
    const auto x = random_tokens<6, double>(7, 12);
    Run<L> chosen, given;
    chosen.forward(layer, x, {.shape = {1, 7}});
    given.forward(layer, x, {.shape = {1, 7}, .options = {.attention_scale = 1 / std::sqrt(double(L::d))}});
    CHECK(same_bits(chosen.y, given.y));
  };
  check_scale(Attention<AttentionShape{.dim = 6, .heads = 2}, double>{});
  check_scale(Attention<AttentionShape{.dim = 6, .heads = 2, .head_dim = 5}, double>{});
  check_scale(Attention<AttentionShape{.dim = 6, .heads = 4, .kv_heads = 2, .head_dim = 2}, double>{});
}

TEST_CASE("causal attention does not look ahead, attention without a mask does") {
  Attention<multi_head> causal;
  Attention<bidirectional> full;
  draw_weights(causal, 5);
  draw_weights(full, 5);
  auto x = random_tokens<6, float>(7, 6);
  Run<decltype(causal)> a, b;
  Run<decltype(full)> c, d;
  const Pass pass{.shape = {1, 7}};
  a.forward(causal, x, pass);
  c.forward(full, x, pass);
  x[5][0] += 1;
  b.forward(causal, x, pass);
  d.forward(full, x, pass);
  CHECK(same_bits(a.y[0], b.y[0], 30));
  CHECK_FALSE(same_bits(a.y[5], b.y[5], 6));
  CHECK_FALSE(same_bits(c.y[0], d.y[0], 6));
}

TEST_CASE("padding is as if it were not there for every token that is not padding") {
  const Index lengths[2] = {3, 7};
  Attention<bidirectional, double> layer;
  draw_weights(layer, 7);
  auto x = random_tokens<6, double>(14, 8);
  Run<decltype(layer)> a, b, alone;
  const Pass pass{.shape = {2, 7}, .lengths = lengths};
  a.forward(layer, x, pass);
  x.rows({3, 4}).eigen().setConstant(9);
  b.forward(layer, x, pass);
  CHECK(same_bits(a.y[0], b.y[0], 18));
  CHECK(same_bits(a.y[7], b.y[7], 42));
  Tokens<6, double> cut(3);
  std::copy_n(x[0], 18, cut[0]);
  alone.forward(layer, cut, {.shape = {1, 3}});
  CHECK(same_bits(a.y[0], alone.y[0], 18));
}

TEST_CASE("rotary attention depends on distances: a shift of all positions changes nothing but rounding") {
  Grouped layer;
  draw_weights(layer, 9);
  const auto x = random_tokens<6, double>(5, 10);
  Run<Grouped> at_zero, shifted;
  at_zero.forward(layer, x, {.shape = {1, 5}});
  // behind 30 cached positions whose values are zero and whose keys no query can prefer: compare the scores
  const Pass pass{.shape = {1, 5}, .first_position = 30};
  Tokens<Grouped::Dkv, double> keys(35), values(35);
  const KeyValues<Grouped::Dkv, double> cache{keys, values, 35};
  shifted.y.resize(5);
  layer.forward(x, shifted.y, shifted.tape, shifted.scratch, pass, &cache);
  for (Index i = 0; i < 5; ++i)
    for (Index j = 0; j <= i; ++j) {   // head 0 with key/value head 0
      double a = 0, b = 0;
      for (int c = 0; c < 4; ++c) {
        a += at_zero.tape.query[i][c] * at_zero.tape.key[j][c];
        b += shifted.tape.query[i][c] * shifted.tape.key[j][c];
      }
      CHECK(a == Approx(b).margin(1e-12));   // an angle of 30 is off by about 1e-14
    }
}

TEST_CASE("dropout of attention belongs to the sequence's global number, not to its place in the call") {
  Grouped layer;
  draw_weights(layer, 11);
  const auto x = random_tokens<6, double>(21, 12);
  Pass pass{.shape = {3, 7}, .dropout = 0.4, .key = Key{13}};
  Run<Grouped> all, alone;
  all.forward(layer, x, pass);
  Tokens<6, double> one(7);
  std::copy_n(x[14], 42, one[0]);
  pass.shape = {1, 7};
  pass.first_token = 14;
  alone.forward(layer, one, pass);
  CHECK(same_bits(alone.y[0], all.y[14], 42));
  pass.first_token = 0;
  alone.forward(layer, one, pass);
  CHECK_FALSE(same_bits(alone.y[0], all.y[14], 42));
}

TEST_CASE("grouped heads with equal key/value heads are many heads with copies") {
  // kv_heads = 1 is kv_heads = 3 whose heads are equal
  constexpr AttentionShape copies{.dim = 6, .heads = 3, .mask = Mask::full};
  Attention<bidirectional, double> one;
  Attention<copies, double> three;
  draw_weights(one, 14);
  three.query = one.query;
  three.output = one.output;
  for (int h = 0; h < 3; ++h) {
    three.key.weight.eigen().middleRows(2 * h, 2) = one.key.weight.eigen();
    three.value.weight.eigen().middleRows(2 * h, 2) = one.value.weight.eigen();
  }
  const auto x = random_tokens<6, double>(7, 15);
  Run<decltype(one)> a;
  Run<decltype(three)> b;
  a.forward(one, x, {.shape = {1, 7}});
  b.forward(three, x, {.shape = {1, 7}});
  CHECK(same_bits(a.y, b.y));
}

TEST_CASE("gradients of attention that are not wanted are skipped, and the others keep their bits") {
  Grouped layer, grad, frozen, no_dx;
  draw_weights(layer, 16);
  const auto x = random_tokens<6, double>(14, 17), dy = random_tokens<6, double>(14, 18);
  const Pass pass{.shape = {2, 7}};
  Run<Grouped> run;
  run.forward(layer, x, pass);
  Tokens<6, double> dx(14), dx_frozen(14);
  layer.backward(x, run.tape, dy, dx, grad, run.scratch, pass);
  for_each_weight([](auto& w) { w.release(); }, frozen.key);
  frozen.output.weight.release();
  layer.backward(x, run.tape, dy, dx_frozen, frozen, run.scratch, pass);
  CHECK(same_bits(dx, dx_frozen));
  CHECK(frozen.key.weight.empty());
  CHECK(same_weights(grad.query, frozen.query));
  CHECK(same_weights(grad.value, frozen.value));
  layer.backward(x, run.tape, dy, {}, no_dx, run.scratch, pass);
  CHECK(same_weights(grad, no_dx));
}

TEST_CASE("a cache that is too small, or missing for tokens that have a past, is refused") {
  Grouped layer;
  Run<Grouped> run;
  const auto x = random_tokens<6, double>(4, 1);
  run.y.resize(4);
  Tokens<Grouped::Dkv, double> rows(11);
  const auto says = [&](const Pass& pass, const KeyValues<Grouped::Dkv, double>* cache) {
    return refusal([&] { layer.forward(x, run.y, run.tape, run.scratch, pass, cache); });
  };
  const KeyValues<Grouped::Dkv, double> short_one{rows, rows, 5}, few_rows{rows, rows, 6};
  CHECK(says({.shape = {1, 4}, .first_position = 2}, nullptr).find("begin at position 2") != std::string::npos);
  CHECK(says({.shape = {1, 4}, .first_position = 2}, &short_one).find("6 positions, but the cache has room for 5") !=
        std::string::npos);
  CHECK(says({.shape = {2, 2}, .first_position = 2}, &few_rows).find("2 sequences of 6 positions need 12") !=
        std::string::npos);
  CHECK(says({.shape = {1, 4}, .first_position = 2}, &few_rows).empty());
}
