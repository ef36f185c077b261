#include <moegpt/kernels/multi_head.hpp>

#include "support/catch.hpp"
#include "support/key_rules.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

constexpr int d = 3;
constexpr Index queries = rule_queries, keys = 80;

kernels::MultiHead<double> one_head(const kernels::KeyRule& rule, Index stride) {
  return {.batch = 1,
          .length = queries,
          .heads = 1,
          .kv_heads = 1,
          .width = d,
          .key_rows = keys,
          .key_length = rule.keys - rule.first,
          .own = rule.own,
          .common = {.scale = 0.7, .rule = rule, .key_stride = Index{1} << 24},
          .noise = {},
          .first_sequence = 0,
          .stride = stride};
}

bool sees_with_stride(const kernels::KeyRule& rule, Index stride, Index i, Index j) {
  kernels::KeyRule all = rule;
  all.window = 0;
  return sees(rule, i, j) || (sees(all, i, j) && (rule.first + i - j) % stride == 0);
}

struct Heads {  // two sequences of 150 tokens, four heads on two key/value heads
  static constexpr Index length = 150, tokens = 2 * length;
  const Index exist[2] = {140, 150};
  Tokens<4 * d, double> q = random_tokens<4 * d, double>(tokens, 6), mixed{tokens}, dq = q,
                        d_mixed = random_tokens<4 * d, double>(tokens, 7);
  Tokens<2 * d, double> k = random_tokens<2 * d, double>(tokens, 8),
                        v = random_tokens<2 * d, double>(tokens, 9), dk = k, dv = v;
  Tokens<4, double> lse{tokens};

  void run(Index batch, int threads, Mask mask, double dropout = 0) {
    const kernels::MultiHead<double> m{.batch = batch,
                                       .length = length,
                                       .heads = 4,
                                       .kv_heads = 2,
                                       .width = d,
                                       .key_rows = length,
                                       .key_length = length,
                                       .key_lengths = exist,
                                       .common = {.scale = 0.8,
                                                  .rule = {.mask = mask, .window = 20},
                                                  .dropout = dropout,
                                                  .key_stride = Index{1} << 24},
                                       .noise = Key{3},
                                       .first_sequence = 0,
                                       .stride = 9};
    Buffer<double> scratch(threads * kernels::multi_head_scratch(length, length, d, 9));
    kernels::multi_head_forward<double>({threads}, m, q, k, v, mixed, lse, scratch.data());
    kernels::multi_head_backward<double>({threads}, m, q, k, v, mixed, lse, d_mixed, dq, dk, dv,
                                         scratch.data());
  }
};

}  // namespace

TEST_CASE("local keys and those of a stride, by any rule, are the formula of a masked softmax") {
  const auto q = random_tokens<d, double>(queries, 1), k = random_tokens<d, double>(keys, 2),
             v = random_tokens<d, double>(keys, 3);
  Tokens<d, double> o(queries);
  Tokens<1, double> lse(queries);
  for_each_key_rule([&](const kernels::KeyRule& rule) {
    if (rule.window == 0 || rule.origin > 0) return;  // a cache that moves holds no keys of a stride
    for (const Index stride : {1, 3, 50}) {
      CAPTURE(rule.mask, rule.local, rule.first, rule.keys, rule.window, rule.own != nullptr, stride);
      Buffer<double> scratch(kernels::multi_head_scratch(queries, keys, d, stride));
      kernels::multi_head_forward<double>({}, one_head(rule, stride), q, k, v, o, lse, scratch.data());
      double off = 0;
      for (Index i = 0; i < queries; ++i) {
        double total = 0, mean[d] = {};
        for (Index j = 0; j < rule.keys; ++j) {
          if (!sees_with_stride(rule, stride, i, j)) continue;
          double s = 0;
          for (int c = 0; c < d; ++c) s += q[i][c] * k[j][c];
          total += std::exp(0.7 * s);
          for (int c = 0; c < d; ++c) mean[c] += std::exp(0.7 * s) * v[j][c];
        }
        for (int c = 0; c < d; ++c)
          off = std::max(off, std::abs(o[i][c] - (total > 0 ? mean[c] / total : 0)));
        if (total > 0) off = std::max(off, std::abs(*lse[i] - std::log(total)));
      }
      CHECK(off < 1e-13);  // of order one, in double
    }
  });
}

TEST_CASE("with a stride, threads and the division of backward among few heads change no bit (invariant 5)") {
  for (const Mask mask : {Mask::causal, Mask::full}) {
    Heads one, many, alone;
    one.run(2, 1, mask, 0.3);
    many.run(2, 3, mask, 0.3);
    CHECK(same_bits(one.mixed, many.mixed));
    CHECK(same_bits(one.dq, many.dq));
    CHECK(same_bits(one.dk, many.dk));
    CHECK(same_bits(one.dv, many.dv));
    alone.run(1, 2, mask, 0.3);  // the first sequence, in blocks of queries and of keys
    CHECK(same_bits(one.mixed[0], alone.mixed[0], Heads::length * 4 * d));
    CHECK(same_bits(one.dq[0], alone.dq[0], Heads::length * 4 * d));
    CHECK(same_bits(one.dk[0], alone.dk[0], Heads::length * 2 * d));
    CHECK(same_bits(one.dv[0], alone.dv[0], Heads::length * 2 * d));
  }
}

TEST_CASE("dropout drops a share of the probabilities of keys of a stride, another mask for each residue") {
  Heads heads;
  heads.q.memory().fill(0);
  heads.v.memory().fill(1);
  heads.run(2, 1, Mask::full, 0.3);
  double mean = 0;
  for (const double x : heads.mixed.memory()) mean += x / static_cast<double>(heads.mixed.memory().size());
  CHECK(mean == Approx(1).margin(0.02));  // of 2 x 4 x 150 queries with 50 keys each: 4 standard errors
  CHECK(heads.mixed[70][0] != heads.mixed[71][0]);
}
