#include <moegpt/kernels/multi_head.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

// Two sequences of five tokens, four query heads on two key/value heads, three features each.
constexpr int width = 3, H = 4, Hkv = 2;
constexpr Index batch = 2, length = 5, tokens = batch * length;
const Index lengths[2] = {5, 3};

kernels::MultiHead<double> heads(Index first_sequence = 0) {
  return {.batch = batch,
          .length = length,
          .heads = H,
          .kv_heads = Hkv,
          .width = width,
          .key_rows = length,
          .key_length = length,
          .key_lengths = lengths,
          .common = {.scale = 0.8, .rule = {.mask = Mask::causal}, .dropout = 0.3, .key_stride = 1000},
          .noise = Key{7},
          .first_sequence = first_sequence};
}

struct Problem {
  Tokens<H * width, double> q = random_tokens<H * width, double>(tokens, 1), mixed{tokens}, dq{tokens};
  Tokens<Hkv * width, double> k = random_tokens<Hkv * width, double>(tokens, 2);
  Tokens<Hkv * width, double> v = random_tokens<Hkv * width, double>(tokens, 3), dk{tokens}, dv{tokens};
  Tokens<H * width, double> d_mixed = random_tokens<H * width, double>(tokens, 4);
  Tokens<H, double> lse{tokens};

  void run(const kernels::MultiHead<double>& m, int threads) {
    Buffer<double> scratch(threads * kernels::multi_head_scratch(length, length, width));
    for (auto* out : {&dk, &dv}) out->memory().fill(99);  // overwritten
    dq.memory().fill(99);
    kernels::multi_head_forward<double>({threads}, m, q, k, v, mixed, lse, scratch.data());
    kernels::multi_head_backward<double>({threads}, m, q, k, v, mixed, lse, d_mixed, dq, dk, dv,
                                         scratch.data());
  }
};

}  // namespace

TEST_CASE("each head of each sequence is attention of its rows and columns, with its own dropout mask") {
  Problem p;
  const auto m = heads();
  p.run(m, 1);
  Tokens<H * width, double> mixed(tokens), dq(tokens);
  Tokens<Hkv * width, double> dk(tokens), dv(tokens);
  Buffer<double> scratch(kernels::attention_scratch(length, width));
  for (Index b = 0; b < batch; ++b)
    for (Index h = 0; h < H; ++h) {
      const Rows rows{b * length, length};
      auto query = [&](auto& x) { return MatrixView<double>(x.rows(rows)).cols_at(h * width, width); };
      auto key = [&](auto& x) { return MatrixView<double>(x.rows(rows)).cols_at(h / 2 * width, width); };
      auto head = m.common;
      head.rule.keys = lengths[b];
      head.key = {mix64(7 + static_cast<std::uint64_t>(b * H + h))};
      double lse[length];
      kernels::attention_forward<double>(head, query(p.q), key(p.k), key(p.v), {0, length}, query(mixed), lse,
                                         scratch.data());
      for (Index t = 0; t < length; ++t) CHECK(lse[t] == p.lse[rows.first + t][h]);
      kernels::attention_backward<double>(head, query(p.q), key(p.k), key(p.v), query(mixed), lse,
                                          query(p.d_mixed), {0, length}, {0, head.rule.keys}, query(dq),
                                          key(dk), key(dv), {.keys = h % 2 > 0}, scratch.data());
    }
  CHECK(same_bits(p.mixed, mixed));
  CHECK(same_bits(p.dq, dq));
  CHECK(same_bits(p.dk, dk));
  CHECK(same_bits(p.dv, dv));
}

TEST_CASE("the number of threads changes no bit of any head (invariant 5)") {
  Problem one;
  one.run(heads(), 1);
  for (const int threads : {2, 3, 8}) {
    Problem many;
    many.run(heads(), threads);
    CHECK(same_bits(one.mixed, many.mixed));
    CHECK(same_bits(one.dq, many.dq));
    CHECK(same_bits(one.dk, many.dk));
    CHECK(same_bits(one.dv, many.dv));
  }
}

TEST_CASE("backward of few heads in blocks of queries and of keys changes no bit") {
  constexpr Index longer = 150;  // three blocks, the last one not whole
  const Index exist[2] = {140, 150};
  const auto q = random_tokens<H * width, double>(2 * longer, 6),
             d_mixed = random_tokens<H * width, double>(2 * longer, 7);
  const auto k = random_tokens<Hkv * width, double>(2 * longer, 8),
             v = random_tokens<Hkv * width, double>(2 * longer, 9);
  for (const Mask mask : {Mask::causal, Mask::full}) {
    auto m = heads();
    m.length = m.key_rows = m.key_length = longer;
    m.key_lengths = exist;
    m.common.rule.mask = mask;
    Tokens<H * width, double> mixed(2 * longer), dq[2] = {mixed, mixed};
    Tokens<Hkv * width, double> dk[2] = {k, k}, dv[2] = {v, v};  // overwritten
    Tokens<H, double> lse(2 * longer);
    Buffer<double> scratch(3 * kernels::multi_head_scratch(longer, longer, width));
    kernels::multi_head_forward<double>({1}, m, q, k, v, mixed, lse, scratch.data());
    for (const bool cut : {false, true}) {
      m.batch = cut ? 1 : 2;
      CHECK((m.batch * m.kv_heads < kernels::few_heads) == cut);
      kernels::multi_head_backward<double>({cut ? 3 : 1}, m, q, k, v, mixed, lse, d_mixed, dq[cut], dk[cut],
                                           dv[cut], scratch.data());
    }
    CHECK(same_bits(dq[0][0], dq[1][0], longer * H * width));
    CHECK(same_bits(dk[0][0], dk[1][0], longer * Hkv * width));
    CHECK(same_bits(dv[0][0], dv[1][0], longer * Hkv * width));
  }
}

TEST_CASE("backward of a window in one long sequence is that of its parts") {
  // A window of 40 of 2,600 tokens, more than the rows that backward holds at a time. The gradient of a key
  // depends on the queries that see it: a part with 40 tokens more on either side has the same ones.
  constexpr Index longer = 2600, part = 300, from = 2200;
  const auto q = random_tokens<width, double>(longer, 6), d_mixed = random_tokens<width, double>(longer, 7);
  const auto k = random_tokens<width, double>(longer, 8), v = random_tokens<width, double>(longer, 9);
  const auto run = [&](Index first, Index count, Tokens<width, double>& dq, Tokens<width, double>& dk,
                       Tokens<width, double>& dv) {
    kernels::MultiHead<double> m{.batch = 1,
                                 .length = count,
                                 .heads = 4,
                                 .kv_heads = 4,
                                 .width = width,
                                 .key_rows = count,
                                 .key_length = count,
                                 .common = {.scale = 0.8, .rule = {.mask = Mask::full, .window = 40}},
                                 .noise = {},
                                 .first_sequence = 0};
    const auto view = [&](const Tokens<width, double>& x) {  // four heads of the same numbers
      Tokens<4 * width, double> all(count);
      for (Index t = 0; t < count; ++t)
        for (int h = 0; h < 4; ++h) std::copy_n(x[first + t], width, all[t] + h * width);
      return all;
    };
    const auto qs = view(q), ks = view(k), vs = view(v), d_os = view(d_mixed);
    Tokens<4 * width, double> mixed(count), dqs(count), dks(count), dvs(count);
    Tokens<4, double> lse(count);
    Buffer<double> scratch(kernels::multi_head_scratch(count, count, width));
    kernels::multi_head_forward<double>({1}, m, qs, ks, vs, mixed, lse, scratch.data());
    kernels::multi_head_backward<double>({1}, m, qs, ks, vs, mixed, lse, d_os, dqs, dks, dvs, scratch.data());
    for (auto [to, of] : {std::pair{&dq, &dqs}, {&dk, &dks}, {&dv, &dvs}}) {
      to->resize(count);
      for (Index t = 0; t < count; ++t) std::copy_n((*of)[t] + 2 * width, width, (*to)[t]);
    }
  };
  Tokens<width, double> dq, dk, dv, part_dq, part_dk, part_dv;
  run(0, longer, dq, dk, dv);
  run(from, part, part_dq, part_dk, part_dv);
  const Index inner = part - 160;
  CHECK(distance(dq[from + 80], part_dq[80], inner * width) < 1e-13);
  CHECK(distance(dk[from + 80], part_dk[80], inner * width) < 1e-13);
  CHECK(distance(dv[from + 80], part_dv[80], inner * width) < 1e-13);
}

TEST_CASE("a sequence's dropout depends on its global index") {
  Problem here, there;
  here.run(heads(0), 1);
  there.run(heads(1), 1);
  CHECK_FALSE(same_bits(here.mixed, there.mixed));
  std::copy_n(here.q[length], length * H * width, there.q[0]);  // sequence 1 as the first of a call
  std::copy_n(here.k[length], length * Hkv * width, there.k[0]);
  std::copy_n(here.v[length], length * Hkv * width, there.v[0]);
  there.run(heads(1), 1);
  CHECK(same_bits(here.mixed[length], there.mixed[0],
                  3 * H * width));  // its three keys are the first sequence's
}

TEST_CASE("rotate_heads rotates every head of every token by the angle of its position") {
  constexpr int d = 4, positions = 70;
  auto x = random_tokens<2 * d, double>(2 * positions, 5);
  const auto before = x;
  Buffer<double> cosine(positions * d / 2), sine(positions * d / 2);
  const kernels::Rotary rotary{.width = d, .base = 100};
  Buffer<double> frequencies(d / 2);
  kernels::rotary_table<double>({2}, {positions, 11}, positions, rotary, frequencies.data(), cosine.data(),
                                sine.data());
  kernels::rotate_heads<double>({2}, x, positions, d, rotary, cosine.data(), sine.data(), 1.0);
  for (const Index n : {0, 1, 69, 70, 139})
    for (int h = 0; h < 2; ++h) {
      double expected[d], c[d / 2], s[d / 2];
      std::copy_n(before[n] + h * d, d, expected);
      kernels::rotary_angles(11 + n % positions, frequencies.data(), 1.0, d / 2, c, s);
      kernels::rotate(expected, c, s, d, 1.0);
      CHECK(same_bits(x[n] + h * d, expected, d));
    }
}
