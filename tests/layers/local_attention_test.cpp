// Attention that looks at less: windows, blocks and strides, in some layers of a model.
#include <moegpt/layers/attention.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

constexpr AttentionShape grouped{.dim = 6,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 4,
                                 .rotary = true,
                                 .bias = true,
                                 .output_bias = false,
                                 .window = 3};
constexpr AttentionShape with(AttentionShape shape, Mask mask, int window, Local local, int stride = 0) {
  shape.mask = mask, shape.window = window, shape.local = local, shape.stride = stride;
  return shape;
}
constexpr AttentionShape blocks = with(grouped, Mask::causal, 3, Local::block);
constexpr AttentionShape two_blocks = with(grouped, Mask::full, 2, Local::two_blocks);
constexpr AttentionShape strided = with(grouped, Mask::causal, 2, Local::window, 3);
constexpr AttentionShape strided_both_ways = with(grouped, Mask::full, 2, Local::window, 3);
constexpr AttentionShape strided_blocks = with(grouped, Mask::causal, 10, Local::block, 7);

template <AttentionShape S>
void gradcheck_plain_and_padded() {
  gradcheck_three_seeds<Attention<S, double>>();
  const Index lengths[2] = {5, 2};
  GradcheckOptions options;
  options.pass.lengths = lengths;
  options.pass.dropout = 0.3;
  options.pass.key = Key{6};
  gradcheck_three_seeds<Attention<S, double>>(options);
}

template <class L>
struct Run {
  using T = typename L::Scalar;
  Tokens<6, T> y, dx;
  L grad;
  typename L::Tape tape;
  typename L::Scratch scratch;
  void forward(const L& layer, const Tokens<6, T>& x, const Pass& pass,
               const KeyValues<L::Dkv, T>* cache = nullptr) {
    y.resize(pass.tokens());
    layer.forward(x, y, tape, scratch, pass, cache);
  }
  void backward(const L& layer, const Tokens<6, T>& x, const Tokens<6, T>& dy, const Pass& pass) {
    dx.resize(pass.tokens());
    layer.backward(x, tape, dy, dx, grad, scratch, pass);
  }
};

// Invariants 5 and 6, with and without dropout: threads, sequences of a call, and pieces with a cache.
template <AttentionShape S, class T>
void require_invariants(const KeyValues<Attention<S, T>::Dkv, T>& cache) {
  using L = Attention<S, T>;
  constexpr Index length = 300, batch = 2;
  L layer;
  draw_weights(layer, 3);
  const auto x = random_tokens<6, T>(batch * length, 4), dy = random_tokens<6, T>(batch * length, 5);
  for (const std::optional<Key> key : {std::optional<Key>{}, std::optional<Key>{Key{9}}}) {
    Run<L> whole, threads;
    Pass pass{.shape = {batch, length}, .dropout = 0.3, .key = key};
    whole.forward(layer, x, pass);
    whole.backward(layer, x, dy, pass);
    pass.exec = {3};
    threads.forward(layer, x, pass);
    threads.backward(layer, x, dy, pass);
    CHECK(same_bits(whole.y, threads.y));
    CHECK(same_bits(whole.dx, threads.dx));
    CHECK(same_weights(whole.grad, threads.grad));
    for (const Index piece : {1, 50, 150}) {
      if (cache.firsts) std::fill_n(cache.firsts, batch, 0);
      Run<L> step;
      for (Index first = 0; first < length; first += piece) {
        Tokens<6, T> part(batch * piece);
        for (Index b = 0; b < batch; ++b) std::copy_n(x[b * length + first], piece * 6, part[b * piece]);
        step.forward(layer, part,
                     {.shape = {batch, piece},
                      .exec = {2},
                      .dropout = 0.3,
                      .key = key,
                      .first_position = first,
                      .sequence_stride = length},
                     &cache);
        for (Index b = 0; b < batch; ++b)
          REQUIRE(same_bits(step.y[b * piece], whole.y[b * length + first], piece * 6));
      }
    }
  }
}
template <AttentionShape S, class T>
void require_invariants() {
  constexpr Index capacity = S.cache_rows(0, 310);
  Tokens<Attention<S, T>::Dkv, T> keys(2 * capacity), values(2 * capacity);
  Index firsts[2] = {};
  require_invariants<S, T>({keys, values, capacity, capacity < 310 ? firsts : nullptr});
  if constexpr (capacity < 310) CHECK(firsts[0] > 0);  // rows have moved
}

}  // namespace

TEST_CASE("the gradients of attention within blocks agree with differences") {
  SECTION("causal") { gradcheck_plain_and_padded<blocks>(); }
  SECTION("two blocks, full") { gradcheck_plain_and_padded<two_blocks>(); }
}

TEST_CASE("the gradients of attention with a stride agree with differences") {
  SECTION("causal") { gradcheck_plain_and_padded<strided>(); }
  SECTION("full") { gradcheck_plain_and_padded<strided_both_ways>(); }
}

TEST_CASE("the gradients of attention with blocks and a stride agree with differences beyond a tile") {
  GradcheckOptions options;
  options.pass.shape = {1, 90};
  options.per_tensor = 6;
  gradcheck_three_seeds<Attention<strided_blocks, double>>(options);
}

TEMPLATE_TEST_CASE("a window, blocks and a stride have the same bits in pieces and with threads", "", float,
                   double) {
  require_invariants<grouped, TestType>();
  require_invariants<with(grouped, Mask::causal, 7, Local::two_blocks), TestType>();
  require_invariants<strided, TestType>();
}

TEST_CASE("a window, blocks and a stride apply to the layers that window_at names, by Pass::layer") {
  constexpr AttentionShape alternating = [] {
    AttentionShape shape = strided;
    shape.window_at = {1};
    return shape;
  }();
  constexpr AttentionShape without = with(grouped, Mask::causal, 0, Local::window);
  using L = Attention<alternating>;
  L layer;
  draw_weights(layer, 3);
  Attention<strided> always;
  Attention<without> never;
  always.query = layer.query, always.key = layer.key, always.value = layer.value,
  always.output = layer.output;
  never.query = layer.query, never.key = layer.key, never.value = layer.value, never.output = layer.output;
  const auto x = random_tokens<6, float>(30, 4);
  Run<L> run;
  Run<Attention<strided>> windowed;
  Run<Attention<without>> full;
  const Pass pass{.shape = {1, 30}};
  windowed.forward(always, x, pass);
  full.forward(never, x, pass);
  CHECK_FALSE(same_bits(windowed.y, full.y));
  for (const int number : {0, 1, 2}) {
    Pass of_layer = pass;
    of_layer.layer = number;
    run.forward(layer, x, of_layer);
    CHECK(same_bits(run.y, number == 1 ? windowed.y : full.y));
  }
}

TEST_CASE("a cache of a window that lacks keys, rows or a window is rejected") {
  using L = Attention<grouped>;
  const L layer;
  constexpr Index capacity = grouped.window_rows();
  Tokens<L::Dkv, float> keys(capacity), values(capacity);
  Index first = 20;
  const auto x = random_tokens<6, float>(1, 4);
  const auto says = [&](Index position, Index rows) {
    Run<L> run;
    const KeyValues<L::Dkv, float> cache{keys, values, rows, &first};
    return refusal([&] { run.forward(layer, x, {.shape = {1, 1}, .first_position = position}, &cache); });
  };
  CHECK(says(22, capacity).empty());
  CHECK(says(21, capacity).find("begins at position 20, but the token at position 21 attends to earlier") !=
        std::string::npos);
  CHECK(says(22, capacity - 1).find("rows that move") != std::string::npos);
  first = 19;
  CHECK(says(22, capacity).find("begins at position 19") != std::string::npos);
}
