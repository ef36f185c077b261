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

// What variants of rotary positions and of queries and keys there are.
constexpr AttentionShape with_norms(QueryKeyNorm norm, int rotary_dim, Pairing pairing,
                                    RotaryScaling scaling) {
  AttentionShape shape = grouped;
  shape.query_key_norm = norm, shape.rotary_dim = rotary_dim, shape.pairing = pairing;
  shape.rotary_scaling = scaling;
  return shape;
}
constexpr AttentionShape head_norms =
    with_norms(QueryKeyNorm::head, 2, Pairing::adjacent, RotaryScaling::yarn);
constexpr AttentionShape full_norms =
    with_norms(QueryKeyNorm::full, 4, Pairing::adjacent, RotaryScaling::ntk);

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

// No biases: without rotary positions the key bias has no gradient (it shifts all scores of a query equally).
constexpr AttentionShape windowed = [] {
  AttentionShape shape = grouped;
  shape.window = 3;
  return shape;
}();
constexpr AttentionShape near = [] {
  AttentionShape shape = bidirectional;
  shape.window = 2;
  return shape;
}();

constexpr AttentionShape crossing{
    .dim = 6, .heads = 4, .kv_heads = 2, .head_dim = 4, .mask = Mask::full, .memory_dim = 5};
using Cross = Attention<crossing, double>;

// Cross-attention as a layer of one input: x is the first half of each sequence, rounded up; the memory is
// the first five features of the other half. pass.lengths are divided likewise.
template <class CrossAttention>
struct HalvesOf {
  using Scalar = double;
  static constexpr int dim_in = 6, dim_out = 6;
  CrossAttention attention;
  static constexpr auto fields() { return Fields{Field{"attention", &HalvesOf::attention}}; }
  struct Tape {
    typename CrossAttention::Tape attention;
    Tokens<6, double> x;
    Tokens<5, double> memory;
    void resize(const Pass&) {}
  };
  struct Scratch {
    typename CrossAttention::Scratch attention;
    Tokens<6, double> y, dx;
    Tokens<5, double> d_memory;
    void resize(const Pass&) {}
  };
  // The pass of x and the lengths of the memory.
  struct Parts {
    Pass pass;
    Index length;
    Index lengths[2][8];
    explicit Parts(const Pass& whole) : pass(whole) {
      pass.shape.length = (whole.shape.length + 1) / 2;
      length = whole.shape.length - pass.shape.length;
      for (Index b = 0; b < whole.shape.batch; ++b) {
        lengths[0][b] = std::min(whole.length_of(b), pass.shape.length);
        lengths[1][b] = whole.length_of(b) - lengths[0][b];
      }
      if (whole.lengths) pass.lengths = lengths[0];
    }
    Memory<5, double> memory(const Tape& tape) const {
      return {tape.memory, length, pass.lengths ? lengths[1] : nullptr};
    }
    // f(row of the input, row of x or of the memory)
    static void each(const Pass& whole, Index first, Index count, auto&& f) {
      for (Index b = 0; b < whole.shape.batch; ++b)
        for (Index t = 0; t < count; ++t) f(b * whole.shape.length + first + t, b * count + t);
    }
  };
  void forward(In<6, double> x, Out<6, double> y, Tape& tape, Scratch& scratch, const Pass& whole) const {
    const Parts parts(whole);
    const Index L = parts.pass.shape.length, batch = whole.shape.batch;
    tape.x.resize(batch * L);
    tape.memory.resize(batch * parts.length);
    scratch.y.resize(batch * L);
    Parts::each(whole, 0, L, [&](Index n, Index i) { std::copy_n(x[n], 6, tape.x[i]); });
    Parts::each(whole, L, parts.length, [&](Index n, Index i) { std::copy_n(x[n], 5, tape.memory[i]); });
    attention.forward(tape.x, parts.memory(tape), scratch.y, tape.attention, scratch.attention, parts.pass);
    std::fill_n(y[0], 6 * y.count, 0.0);
    Parts::each(whole, 0, L, [&](Index n, Index i) { std::copy_n(scratch.y[i], 6, y[n]); });
  }
  void backward(In<6, double>, const Tape& tape, In<6, double> dy, Out<6, double> dx, HalvesOf& grad,
                Scratch& scratch, const Pass& whole) const {
    const Parts parts(whole);
    const Index L = parts.pass.shape.length, batch = whole.shape.batch;
    scratch.y.resize(batch * L);
    scratch.dx.resize(batch * L);
    scratch.d_memory.resize(batch * parts.length);
    scratch.d_memory.memory().fill(0);
    Parts::each(whole, 0, L, [&](Index n, Index i) { std::copy_n(dy[n], 6, scratch.y[i]); });
    const bool wanted = !dx.empty();
    attention.backward(tape.x, parts.memory(tape), tape.attention, scratch.y,
                       wanted ? scratch.dx.view() : Out<6, double>{},
                       Sum(wanted ? scratch.d_memory.view() : Out<5, double>{}), grad.attention,
                       scratch.attention, parts.pass);
    if (!wanted) return;
    std::fill_n(dx[0], 6 * dx.count, 0.0);
    Parts::each(whole, 0, L, [&](Index n, Index i) { std::copy_n(scratch.dx[i], 6, dx[n]); });
    Parts::each(whole, L, parts.length,
                [&](Index n, Index i) { std::copy_n(scratch.d_memory[i], 5, dx[n]); });
  }
};

}  // namespace

TEST_CASE("the gradients of cross-attention agree with differences: of x, of the memory and of weights") {
  // of 7: four queries, of which one is padding, and memories of two tokens, of one, and of none, of three
  const Index lengths[2] = {6, 5}, none[2] = {3, 7};
  GradcheckOptions options;
  options.pass.shape = {2, 7};
  SECTION("whole") {}
  SECTION("padding") { options.pass.lengths = lengths; }
  SECTION("dropout") {
    options.pass.dropout = 0.3;
    options.pass.key = Key{5};
  }
  SECTION("padding, dropout and a scale of its own") {
    options.pass.lengths = lengths;
    options.pass.dropout = 0.3;
    options.pass.key = Key{6};
    options.pass.options.attention_scale = 0.9;
  }
  SECTION("a memory without tokens that count") { options.pass.lengths = none; }
  gradcheck_three_seeds<HalvesOf<Cross>>(options);
  constexpr AttentionShape adapted = [] {
    AttentionShape shape = crossing;
    shape.adapter_rank = 2;
    return shape;
  }();
  gradcheck_three_seeds<HalvesOf<Attention<adapted, double>>>(options);
}

TEST_CASE("cross-attention is the formula of its projections, for each sequence's own length of the memory") {
  constexpr AttentionShape biased = [] {
    AttentionShape shape = crossing;
    shape.bias = true;
    return shape;
  }();
  Attention<biased, double> layer;
  draw_weights(layer, 21);
  const Index batch = 2, L = 5, Lm = 3, lengths[2] = {3, 2};
  const auto x = random_tokens<6, double>(batch * L, 22);
  const auto memory = random_tokens<5, double>(batch * Lm, 23);
  Run<Attention<biased, double>> run;
  run.y.resize(batch * L);
  layer.forward(x, {memory, Lm, lengths}, run.y, run.tape, run.scratch, {.shape = {batch, L}});
  const auto project = [](const auto& linear, const auto& tokens) {
    Eigen::MatrixXd out = linear.weight.eigen() * tokens.eigen();
    if (!linear.bias.empty()) out.colwise() += linear.bias.eigen().row(0).transpose();
    return out;
  };
  const Eigen::MatrixXd q = project(layer.query, x), k = project(layer.key, memory),
                        v = project(layer.value, memory);
  Tokens<16, double> mixed(batch * L);
  for (Index b = 0; b < batch; ++b)
    for (Index h = 0; h < 4; ++h)
      for (Index n = b * L; n < (b + 1) * L; ++n) {
        double total = 0;
        for (Index j = b * Lm; j < b * Lm + lengths[b]; ++j) {
          const double p = std::exp(q.col(n).segment(4 * h, 4).dot(k.col(j).segment(h / 2 * 4, 4)) / 2);
          total += p;
          for (int i = 0; i < 4; ++i) mixed[n][4 * h + i] += p * v(h / 2 * 4 + i, j);
        }
        for (int i = 0; i < 4; ++i) mixed[n][4 * h + i] /= total;
      }
  const Eigen::MatrixXd y = project(layer.output, mixed);
  CHECK((y - run.y.eigen()).cwiseAbs().maxCoeff() < 1e-13);  // values of order one, in double
}

TEMPLATE_TEST_CASE(
    "cross-attention to x itself has the bits of attention without a mask, forward and backward", "", float,
    double) {
  using L = Attention<bidirectional, TestType>;
  L layer, grad, cross_grad;
  draw_weights(layer, 24);
  const auto x = random_tokens<6, TestType>(2 * 70, 25), dy = random_tokens<6, TestType>(2 * 70, 26);
  const Index lengths[2] = {70, 66};
  const Pass pass{.shape = {2, 70}, .exec = {2}, .dropout = 0.2, .key = Key{4}, .lengths = lengths};
  Run<L> self, cross;
  for (auto* run : {&self, &cross}) run->dx.resize(140);
  self.forward(layer, x, pass);
  layer.backward(x, self.tape, dy, self.dx, grad, self.scratch, pass);
  cross.y.resize(140);
  const Memory<6, TestType> memory{x, 70, lengths};
  layer.forward(x, memory, cross.y, cross.tape, cross.scratch, pass);
  layer.backward(x, memory, cross.tape, dy, cross.dx, Sum(cross.dx), cross_grad, cross.scratch, pass);
  CHECK(same_bits(self.y, cross.y));
  CHECK(same_bits(self.dx, cross.dx));
  CHECK(same_weights(grad, cross_grad));
}

TEMPLATE_TEST_CASE("cross-attention has the same bits in chunks, alone and with projected keys (invariant 6)",
                   "", float, double) {
  using L = Attention<crossing, TestType>;
  constexpr Index batch = 2, length = 70, Lm = 9;
  const Index lengths[2] = {4, 9};
  L layer;
  draw_weights(layer, 27);
  const auto x = random_tokens<6, TestType>(batch * length, 28);
  const auto memory = random_tokens<5, TestType>(batch * Lm, 29);
  for (const std::optional<Key> key : {std::optional<Key>{}, std::optional<Key>{Key{9}}}) {
    const Pass pass{.shape = {batch, length}, .exec = {2}, .dropout = 0.3, .key = key};
    Run<L> whole, step;
    whole.y.resize(batch * length);
    layer.forward(x, {memory, Lm, lengths}, whole.y, whole.tape, whole.scratch, pass);
    Tokens<L::Dkv, TestType> keys(batch * Lm), values(batch * Lm);
    layer.key.forward(memory, keys, pass);
    layer.value.forward(memory, values, pass);
    const Index starts[][batch] = {{0, 31}, {31, 1}};  // chunks of 30 tokens
    for (const auto& firsts : starts) {
      Tokens<6, TestType> part(batch * 30);
      for (Index b = 0; b < batch; ++b) std::copy_n(x[b * length + firsts[b]], 30 * 6, part[b * 30]);
      step.y.resize(batch * 30);
      layer.forward(part, KeyValues<L::Dkv, TestType>{keys, values, Lm}, lengths, step.y, step.tape,
                    step.scratch,
                    {.shape = {batch, 30},
                     .dropout = 0.3,
                     .key = key,
                     .first_positions = firsts,
                     .sequence_stride = length});
      for (Index b = 0; b < batch; ++b)
        REQUIRE(same_bits(step.y[b * 30], whole.y[b * length + firsts[b]], 30 * 6));
    }
    Tokens<6, TestType> alone(length);  // the second sequence
    std::copy_n(x[length], length * 6, alone[0]);
    step.y.resize(length);
    layer.forward(alone, {memory.view().rows({Lm, Lm}), Lm}, step.y, step.tape, step.scratch,
                  {.shape = {1, length}, .dropout = 0.3, .key = key, .first_token = length});
    REQUIRE(same_bits(step.y[0], whole.y[length], length * 6));
  }
}

TEST_CASE("the gradient of a memory accumulates, and a memory that does not fit the pass is rejected") {
  Cross layer, grad;
  draw_weights(layer, 30);
  const auto x = random_tokens<6, double>(4, 31), dy = random_tokens<6, double>(4, 32);
  const auto memory = random_tokens<5, double>(6, 33);
  Run<Cross> run;
  run.y.resize(4);
  const Pass pass{.shape = {2, 2}};
  layer.forward(x, {memory, 3}, run.y, run.tape, run.scratch, pass);
  Tokens<5, double> once(6), twice(6);
  layer.backward(x, {memory, 3}, run.tape, dy, {}, Sum(once), grad, run.scratch, pass);
  for (int i = 0; i < 2; ++i)
    layer.backward(x, {memory, 3}, run.tape, dy, {}, Sum(twice), grad, run.scratch, pass);
  for (Index i = 0; i < 30; ++i) CHECK(twice[0][i] == Approx(2 * once[0][i]));
  CHECK(once[0][0] != 0);
  const auto says = [&](Index length, std::vector<Index> lengths) {
    return refusal(
        [&] { layer.forward(x, {memory, length, lengths.data()}, run.y, run.tape, run.scratch, pass); });
  };
  CHECK(says(3, {3, 0}).empty());
  CHECK(says(4, {3, 3}).find("expected 8, because there are 2 sequences of 4") != std::string::npos);
  CHECK(says(3, {3, 4}).find("sequence 1 of the memory has length 4, expected 0 .. 3") != std::string::npos);
}

TEST_CASE("the gradients of attention agree with differences: many, grouped and unmasked heads") {
  SECTION("multi-head, causal") { gradcheck_three_seeds<Attention<multi_head, double>>(); }
  SECTION("grouped, rotary, biases, explicit head_dim") { gradcheck_three_seeds<Grouped>(); }
  SECTION("full mask, one key/value head") { gradcheck_three_seeds<Attention<bidirectional, double>>(); }
}

TEST_CASE("the gradients of attention agree with differences with padding, dropout and another scale") {
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

TEST_CASE(
    "the gradients of attention agree with differences: norms, limit, partial and scaled rotary pairs") {
  const Index lengths[2] = {5, 2};
  GradcheckOptions options;
  options.pass.options = {.rotary_base = 50, .rotary_factor = 3, .rotary_context = 40, .rotary_fast = 3};
  SECTION("norms") {}
  SECTION("limit, padding") {
    options.pass.options.qkv_clip = 0.7;
    options.pass.lengths = lengths;
  }
  gradcheck_three_seeds<Attention<head_norms, double>>(options);
  gradcheck_three_seeds<Attention<full_norms, double>>(options);
  gradcheck_three_seeds<Grouped>(options);
}

TEST_CASE("the gradients of attention agree with differences for a sequence longer than a block of queries") {
  GradcheckOptions options;
  options.pass.shape = {1, 67};
  options.per_tensor = 12;
  gradcheck_three_seeds<Attention<multi_head, double>>(options);
}

TEMPLATE_TEST_CASE("a sequence has the same bits alone and among others (invariant 6)", "", float, double) {
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

TEMPLATE_TEST_CASE("with a cache, chunks and single tokens have the bits of the whole sequence (invariant 6)",
                   "", (Attention<grouped, float>), (Attention<grouped, double>),
                   (Attention<head_norms, float>)) {
  using L = TestType;
  using T = typename L::Scalar;
  const ModelOptions options{
      .qkv_clip = L::QueryNorm::norms ? 0.7 : 0.0, .rotary_factor = 3, .rotary_context = 40};
  constexpr Index length = 70, batch = 2, capacity = 80;
  L layer;
  draw_weights(layer, 3);
  const auto x = random_tokens<6, T>(batch * length, 4);
  Run<L> whole, step;
  whole.forward(layer, x, {.shape = {batch, length}, .options = options});
  for (const Index piece : {1, 7, 70}) {
    Tokens<L::Dkv, T> keys(batch * capacity), values(batch * capacity);
    const KeyValues<L::Dkv, T> cache{keys, values, capacity};
    for (Index first = 0; first < length; first += piece) {
      Tokens<6, T> part(batch * piece);
      for (Index b = 0; b < batch; ++b) std::copy_n(x[b * length + first], piece * 6, part[b * piece]);
      step.y.resize(batch * piece);
      layer.forward(part, step.y, step.tape, step.scratch,
                    {.shape = {batch, piece}, .exec = {2}, .options = options, .first_position = first},
                    &cache);
      for (Index b = 0; b < batch; ++b)
        REQUIRE(same_bits(step.y[b * piece], whole.y[b * length + first], piece * 6));
    }
  }
}

TEMPLATE_TEST_CASE(
    "sequences of different lengths continue in a cache with the bits that each has alone (invariant 6)", "",
    float, double) {
  using L = Attention<grouped, TestType>;
  constexpr Index length = 70, batch = 3, capacity = 70, piece = 30;
  const Index steps[][batch] = {{30, 1, 17}, {0, 30, 1},   {1, 1, 1},
                                {1, 0, 1},   {30, 30, 30}, {8, 8, 20}};  // of 70
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
      part.memory().fill(TestType(7));  // padding
      for (Index b = 0; b < batch; ++b) std::copy_n(x[b * length + held[b]], counts[b] * 6, part[b * piece]);
      step.y.resize(batch * piece);
      layer.forward(part, step.y, step.tape, step.scratch,
                    {.shape = {batch, piece},
                     .exec = {2},
                     .dropout = 0.3,
                     .key = key,
                     .first_positions = held,
                     .sequence_stride = length,
                     .lengths = counts},
                    &cache);
      for (Index b = 0; b < batch; ++b) {
        REQUIRE(same_bits(step.y[b * piece], whole.y[b * length + held[b]], counts[b] * 6));
        held[b] += counts[b];
      }
    }
    for (Index b = 0; b < batch; ++b) CHECK(held[b] == length);
  }
}

TEST_CASE("the gradients of attention agree with differences for windows") {
  const Index lengths[2] = {5, 2};
  GradcheckOptions options;
  options.pass.shape = {2, 5};
  SECTION("whole") {}
  SECTION("padding and dropout") {
    options.pass.lengths = lengths;
    options.pass.dropout = 0.3;
    options.pass.key = Key{5};
  }
  SECTION("longer than a block of queries") {
    options.pass.shape = {1, 67};
    options.per_tensor = 12;
  }
  gradcheck_three_seeds<Attention<windowed, double>>(options);
  gradcheck_three_seeds<Attention<near, double>>(options);
}

TEMPLATE_TEST_CASE(
    "with a window and a cache, chunks and single tokens have the bits of the whole sequence (invariant 6)",
    "", float, double) {
  using L = Attention<windowed, TestType>;
  constexpr Index length = 70;
  L layer;
  draw_weights(layer, 3);
  const auto x = random_tokens<6, TestType>(length, 4);
  Run<L> whole, step;
  whole.forward(layer, x, {.shape = {1, length}});
  for (const Index piece : {1, 7, 35}) {
    Tokens<L::Dkv, TestType> keys(length), values(length);
    const KeyValues<L::Dkv, TestType> cache{keys, values, length};
    for (Index first = 0; first < length; first += piece) {
      step.y.resize(piece);
      layer.forward(x.view().rows({first, piece}), step.y, step.tape, step.scratch,
                    {.shape = {1, piece}, .exec = {2}, .first_position = first}, &cache);
      REQUIRE(same_bits(step.y[0], whole.y[first], piece * 6));
    }
  }
}

TEMPLATE_TEST_CASE("documents that share a sequence have the bits of each alone, forward and backward", "",
                   float, double) {
  const auto check_documents = [](auto layer) {
    using L = decltype(layer);
    using T = TestType;
    const Index lengths[] = {30, 1, 70, 9}, total = 110;
    draw_weights(layer, 3);
    const auto x = random_tokens<6, T>(2 * total, 4), dy = random_tokens<6, T>(2 * total, 5);
    std::vector<Rows> documents;
    for (Index b = 0; b < 2; ++b) {
      Index begin = 0;
      for (const Index length : lengths) {
        documents.insert(documents.end(), static_cast<std::size_t>(length), Rows{begin, length});
        begin += length;
      }
    }
    L grad;
    Run<L> all, alone;
    const Pass pass{.shape = {2, total}, .exec = {2}, .documents = documents.data()};
    all.forward(layer, x, pass);
    all.dx.resize(2 * total);
    layer.backward(x, all.tape, dy, all.dx, grad, all.scratch, pass);
    Index begin = total;  // of the second sequence
    for (const Index length : lengths) {
      const Pass one{.shape = {1, length}};
      const auto own = x.view().rows({begin, length});
      alone.y.resize(length);
      alone.dx.resize(length);
      layer.forward(own, alone.y, alone.tape, alone.scratch, one);
      layer.backward(own, alone.tape, dy.view().rows({begin, length}), alone.dx, grad, alone.scratch, one);
      CHECK(same_bits(alone.y[0], all.y[begin], length * 6));
      CHECK(same_bits(alone.dx[0], all.dx[begin], length * 6));
      begin += length;
    }
  };
  check_documents(Attention<multi_head, TestType>{});
  check_documents(Attention<bidirectional, TestType>{});
  check_documents(Attention<near, TestType>{});
}

TEST_CASE("gradcheck reads the documents and positions of its own shape alone") {
  // Beyond the pass's entries are some that would be invalid in a larger pass.
  std::vector<Rows> documents(10, Rows{0, 5});
  documents.resize(20, Rows{9, -9});
  Index firsts[3] = {0, 0, -1};
  GradcheckOptions options;
  options.pass = {.shape = {2, 5}, .first_positions = firsts, .documents = documents.data()};
  CHECK(gradcheck<Attention<multi_head, double>>(options).message == "");
}

TEST_CASE("a document that begins before the previous one is rejected by a message that names the token") {
  const auto says = [](std::vector<Rows> documents) {
    Attention<multi_head> layer;
    Run<Attention<multi_head>> run;
    const auto x = random_tokens<6, float>(4, 4);
    return refusal([&] { run.forward(layer, x, {.shape = {2, 2}, .documents = documents.data()}); });
  };
  CHECK(says({{0, 1}, {1, 1}, {0, 2}, {0, 2}}).empty());
  CHECK(says({{0, 2}, {0, 1}, {0, 2}, {0, 2}}).find("the document of token 1 is positions 0 .. 0") !=
        std::string::npos);
  CHECK(says({{0, 2}, {0, 2}, {1, 1}, {0, 2}}).find("token 3") != std::string::npos);
  CHECK(says({{-1, 2}, {0, 2}, {1, 1}, {0, 2}}).find("token 0 is positions -1") != std::string::npos);
  CHECK(says({{0, -1}, {0, 2}, {1, 1}, {0, 2}}).find("token 0") != std::string::npos);
}

TEST_CASE(
    "without a given scale attention divides by the root of the width of a head, whatever the model's") {
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

TEST_CASE("causal attention is causal, attention without a mask is not") {
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

TEST_CASE("padding does not change any token that is not padding") {
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
    for (Index j = 0; j <= i; ++j) {  // head 0 with key/value head 0
      double a = 0, b = 0;
      for (int c = 0; c < 4; ++c) {
        a += at_zero.tape.query[i][c] * at_zero.tape.key[j][c];
        b += shifted.tape.query[i][c] * shifted.tape.key[j][c];
      }
      CHECK(a == Approx(b).margin(1e-12));  // the error of an angle of 30 is about 1e-14
    }
}

TEST_CASE("dropout of attention depends on the sequence's global number, not on its index in the call") {
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
  // kv_heads = 1 is kv_heads = 3 with equal heads
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

TEST_CASE("gradients of attention that are not required are skipped, and the others keep their bits") {
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

TEST_CASE("a cache that is too small, or missing for tokens with earlier positions, is rejected") {
  Grouped layer;
  Run<Grouped> run;
  const auto x = random_tokens<6, double>(4, 1);
  run.y.resize(4);
  Tokens<Grouped::Dkv, double> rows(11);
  const auto says = [&](const Pass& pass, const KeyValues<Grouped::Dkv, double>* cache) {
    return refusal([&] { layer.forward(x, run.y, run.tape, run.scratch, pass, cache); });
  };
  const KeyValues<Grouped::Dkv, double> short_one{rows, rows, 5}, few_rows{rows, rows, 6};
  CHECK(says({.shape = {1, 4}, .first_position = 2}, nullptr).find("begin at position 2") !=
        std::string::npos);
  CHECK(says({.shape = {1, 4}, .first_position = 2}, &short_one)
            .find("6 positions, but the cache has room for 5") != std::string::npos);
  CHECK(says({.shape = {2, 2}, .first_position = 2}, &few_rows).find("2 sequences of 6 positions need 12") !=
        std::string::npos);
  CHECK(says({.shape = {1, 4}, .first_position = 2}, &few_rows).empty());
}
