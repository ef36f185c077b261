#include <moegpt/kernels/attention.hpp>
#include <moegpt/kernels/reduce.hpp>

#include "support/catch.hpp"
#include "support/key_rules.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

constexpr int d = 5;
using OneHead = kernels::AttentionHead<double>;

struct Problem {
  Tokens<d, double> q, k, v;
  Problem(Index queries, Index keys)
      : q(random_tokens<d, double>(queries, 1)),
        k(random_tokens<d, double>(keys, 2)),
        v(random_tokens<d, double>(keys, 3)) {}
};
struct Answer {
  Tokens<d, double> o;
  Buffer<double> lse;
};

template <class T>
void run(const kernels::AttentionHead<T>& head, In<d, T> q, In<d, T> k, In<d, T> v, Out<d, T> o, T* lse) {
  Buffer<T> scratch(kernels::attention_scratch(k.count, d));
  for (Index i = 0; i < q.count; i += kernels::attention_block)
    kernels::attention_forward<T>(head, q, k, v, {i, std::min(kernels::attention_block, q.count - i)}, o, lse,
                                  scratch.data());
}
Answer attend(const OneHead& head, const Problem& p) {
  Answer a{Tokens<d, double>(p.q.count()), Buffer<double>(p.q.count())};
  a.o.memory().fill(std::numeric_limits<double>::quiet_NaN());
  run<double>(head, p.q, p.k, p.v, a.o, a.lse.data());
  return a;
}

// The formula, one query at a time.
Answer expected(const OneHead& head, const Problem& p) {
  Answer a{Tokens<d, double>(p.q.count()), Buffer<double>(p.q.count())};
  for (Index i = 0; i < p.q.count(); ++i) {
    double total = 0;
    for (Index j = 0; j < head.rule.keys; ++j) {
      if (!sees(head.rule, i, j)) continue;
      double s = 0;
      for (int c = 0; c < d; ++c) s += p.q[i][c] * p.k[j][c];
      const double e = std::exp(head.scale * s);
      total += e;
      for (int c = 0; c < d; ++c) a.o[i][c] += e * p.v[j][c];
    }
    for (int c = 0; c < d && total > 0; ++c) a.o[i][c] /= total;
    a.lse[i] = std::log(total);
  }
  return a;
}

void check_against_formula(const OneHead& head, const Problem& p) {
  const Answer found = attend(head, p), wanted = expected(head, p);
  CHECK(distance(found.o, wanted.o) < 1e-13);  // of order one, in double
  CHECK(distance(found.lse.data(), wanted.lse.data(), p.q.count()) < 1e-13);
}

}  // namespace

TEST_CASE("a causal query attends to the keys up to its own position") {
  const OneHead head{.scale = 0.7,
                     .rule = {.mask = Mask::causal, .keys = 70}};  // 70: more than one block of queries
  Problem p(70, 70);
  check_against_formula(head, p);
  const Answer before = attend(head, p);
  for (int c = 0; c < d; ++c) p.k[40][c] = p.v[40][c] = 3;
  const Answer after = attend(head, p);
  CHECK(same_bits(before.o[0], after.o[0], 40 * d));  // the past does not notice
  CHECK_FALSE(same_bits(before.o[40], after.o[40], d));
}

TEST_CASE("with a full mask a query attends to every key, and padded keys do not affect results") {
  Problem p(7, 7);
  check_against_formula({.scale = 1, .rule = {.mask = Mask::full, .keys = 7}}, p);
  for (const Mask mask : {Mask::full, Mask::causal}) {
    const OneHead padded{.scale = 1, .rule = {.mask = mask, .keys = 4}};
    check_against_formula(padded, p);
    const Answer before = attend(padded, p);
    for (Index j = 4; j < 7; ++j)
      for (int c = 0; c < d; ++c) p.k[j][c] = p.v[j][c] = std::numeric_limits<double>::quiet_NaN();
    CHECK(same_bits(before.o, attend(padded, p).o));
    p = Problem(7, 7);
  }
}

TEST_CASE("queries and keys may have lengths of their own") {
  check_against_formula({.scale = 0.5, .rule = {.mask = Mask::full, .keys = 8}}, Problem(5, 8));
  check_against_formula({.scale = 0.5, .rule = {.mask = Mask::full, .keys = 3}}, Problem(67, 3));
  check_against_formula({.scale = 0.5, .rule = {.mask = Mask::causal, .first = 6, .keys = 9}}, Problem(3, 9));
}

TEST_CASE(
    "windows and documents of either mask, whole, padded and continued, are the formula of a masked "
    "softmax") {
  const Problem p(rule_queries, 75);
  for_each_key_rule([&](const kernels::KeyRule& rule) {
    const OneHead head{.scale = 0.7, .rule = rule};
    CAPTURE(rule.mask, rule.first, rule.keys, rule.local, rule.origin, rule.window, rule.own != nullptr);
    const Answer found = attend(head, p), wanted = expected(head, p);
    CHECK(distance(found.o, wanted.o) < 1e-13);  // of order one, in double
    double off = 0;
    for (Index i = 0; i < rule_queries; ++i)
      if (rule.begin(i) < rule.end(i)) off = std::max(off, std::abs(found.lse[i] - wanted.lse[i]));
    CHECK(off < 1e-13);
  });
}

TEST_CASE("keys masked by a window or a document do not affect results, in any tile") {
  const auto own = documents_of({130, 90, 80}, 0, 300);
  const kernels::KeyRule rules[] = {{.mask = Mask::causal, .keys = 300, .window = 20},
                                    {.mask = Mask::full, .keys = 300, .window = 20},
                                    {.mask = Mask::causal, .keys = 300, .own = own.data()},
                                    {.mask = Mask::full, .keys = 300, .own = own.data()}};
  for (const kernels::KeyRule& rule : rules) {
    const OneHead head{.scale = 0.7, .rule = rule};
    Problem p(300, 300);
    check_against_formula(head, p);
    const Answer before = attend(head, p);
    for (const Index hidden : {0, 129, 130, 200}) {
      for (int c = 0; c < d; ++c) p.k[hidden][c] += 3, p.v[hidden][c] -= 2;
      const Answer after = attend(head, p);
      int wrong = 0;
      for (Index i = 0; i < 300; ++i) wrong += same_bits(before.o[i], after.o[i], d) == sees(rule, i, hidden);
      CHECK(wrong == 0);
      for (int c = 0; c < d; ++c) p.k[hidden][c] -= 3, p.v[hidden][c] += 2;
      p = Problem(300, 300);
    }
  }
}

TEST_CASE("a query without keys has output zero, not NaN, and no gradient") {
  const OneHead head{.scale = 1, .rule = {.mask = Mask::full, .keys = 0}};
  const Problem p(3, 3);
  const Answer a = attend(head, p);
  for (const double x : a.o.view().rows({0, 3}).eigen().reshaped()) CHECK(x == 0);
  Tokens<d, double> dq(3), dk(3), dv(3);
  dq.memory().fill(5);
  Buffer<double> scratch(kernels::attention_scratch(3, d));
  kernels::attention_backward<double>(head, p.q.view(), p.k.view(), p.v.view(), a.o.view(), a.lse.data(),
                                      p.q.view(), {0, 3}, {0, 0}, dq, dk, dv, {.keys = true}, scratch.data());
  for (Index i = 0; i < 3 * d; ++i) CHECK((dq[0][i] == 0 && dk[0][i] == 0 && dv[0][i] == 0));
}

TEMPLATE_TEST_CASE("one query at a time gives the bits of all queries at once (invariant 6)", "", float,
                   double) {
  using T = TestType;
  const Index n = 70;
  const auto q = random_tokens<d, T>(n, 4), k = random_tokens<d, T>(n, 5), v = random_tokens<d, T>(n, 6);
  const auto own = documents_of({30, 40}, 0, n);
  const auto [dropout, window, cut] = GENERATE(table<double, Index, bool>(
      {{0.0, 0, false}, {0.4, 0, false}, {0.4, 9, false}, {0.0, 66, false}, {0.4, 0, true}, {0.0, 9, true}}));
  {
    kernels::AttentionHead<T> head{.scale = T(0.6),
                                   .rule = {.mask = Mask::causal, .keys = n, .window = window},
                                   .dropout = dropout,
                                   .key = Key{3},
                                   .key_stride = 1000};
    const auto documents = [&, is_cut = cut](Index i) { return is_cut ? own.data() + i : nullptr; };
    head.rule.own = documents(0);
    Tokens<d, T> all(n), single(n), pieces(n);
    Buffer<T> lse(n), single_lse(n);
    run<T>(head, q, k, v, all, lse.data());
    for (Index i = 0; i < n; ++i) {  // as generation does: keys up to i exist
      head.rule.first = i;
      head.rule.keys = i + 1;
      head.rule.own = documents(i);
      run<T>(head, q.rows({i, 1}), k.rows({0, i + 1}), v.rows({0, i + 1}), single.rows({i, 1}),
             single_lse.data() + i);
    }
    CHECK(same_bits(all, single));
    CHECK(same_bits(lse, single_lse));
    for (Index i = 0; i < n; i += 14) {  // a prefill in pieces
      head.rule.first = i;
      head.rule.keys = i + 14;
      head.rule.own = documents(i);
      run<T>(head, q.rows({i, 14}), k.rows({0, i + 14}), v.rows({0, i + 14}), pieces.rows({i, 14}),
             single_lse.data() + i);
    }
    CHECK(same_bits(all, pieces));
  }
}

TEST_CASE("dropout drops a share p of the probabilities and scales the rest") {
  // full mask and v = 1: an output is the sum of the probabilities that were kept, scaled
  Problem p(60, 200);
  p.v.memory().fill(1);
  p.q.memory().fill(0);  // every probability is 1/200
  const double share = 0.3;
  const Answer a = attend({.scale = 1,
                           .rule = {.mask = Mask::full, .keys = 200},
                           .dropout = share,
                           .key = Key{8},
                           .key_stride = 256},
                          p);
  double mean = 0;
  for (Index i = 0; i < 60; ++i) mean += a.o[i][0] / 60;
  // four standard errors of the mean of 12000 draws of 0 or 1 / 0.7
  CHECK(mean == Approx(1).margin(4 * std::sqrt(share / (1 - share)) / std::sqrt(12000.0)));
  CHECK(a.o[0][0] != a.o[1][0]);
}

TEST_CASE(
    "backward gives the derivatives of <o, do> for every mask, with padding, dropout and separate lengths") {
  const auto own = documents_of({1, 3, 2}, 0, 6);
  const OneHead heads[] = {
      {.scale = 0.7, .rule = {.mask = Mask::causal, .keys = 6}},
      {.scale = 0.7, .rule = {.mask = Mask::full, .keys = 4}},
      {.scale = 0.7, .rule = {.mask = Mask::full, .keys = 8}},
      {.scale = 0.7, .rule = {.mask = Mask::causal, .first = 2, .keys = 8}},
      {.scale = 0.7,
       .rule = {.mask = Mask::full, .keys = 8},
       .dropout = 0.3,
       .key = Key{2},
       .key_stride = 16},
      {.scale = 0.7, .rule = {.mask = Mask::causal, .first = 2, .keys = 8, .window = 3}},
      {.scale = 0.7, .rule = {.mask = Mask::full, .keys = 7, .window = 2}},
      {.scale = 0.7,
       .rule = {.mask = Mask::causal, .first = 2, .keys = 8, .window = 3, .local = Local::block}},
      {.scale = 0.7, .rule = {.mask = Mask::full, .keys = 7, .window = 2, .local = Local::two_blocks}},
      {.scale = 0.7, .rule = {.mask = Mask::causal, .keys = 6, .own = own.data()}},
      {.scale = 0.7,
       .rule = {.mask = Mask::full, .keys = 6, .window = 2, .own = own.data()},
       .dropout = 0.3,
       .key = Key{2},
       .key_stride = 16}};
  for (const OneHead& head : heads) {
    CAPTURE(head.rule.mask, head.rule.local, head.rule.window, head.rule.own != nullptr);
    Problem p(6, 8);
    const auto d_o = random_tokens<d, double>(6, 7);
    Tokens<d, double> dq(6), dk(8), dv(8);
    dq.memory().fill(99);  // overwritten; dk and dv are added to
    dk.memory().fill(1);
    dv.memory().fill(1);
    Buffer<double> scratch(kernels::attention_scratch(8, d));
    const Answer a = attend(head, p);
    kernels::attention_backward<double>(head, p.q.view(), p.k.view(), p.v.view(), a.o.view(), a.lse.data(),
                                        d_o.view(), {0, 6}, {0, head.rule.keys}, dq, dk, dv, {.keys = true},
                                        scratch.data());
    auto difference = [&](double& x) {
      const double x0 = x, h = 1e-5;  // off by about h^2 + 1e-16 / h
      auto value = [&](double at) {
        x = at;
        const Answer moved = attend(head, p);
        return kernels::dot(moved.o[0], d_o[0], 6 * d);
      };
      const double slope = (value(x0 + h) - value(x0 - h)) / (2 * h);
      x = x0;
      return slope;
    };
    double worst = 0;
    for (Index i = 0; i < 6 * d; ++i) worst = std::max(worst, std::abs(dq[0][i] - difference(p.q[0][i])));
    for (Index i = 0; i < 8 * d; ++i) {
      worst = std::max(worst, std::abs(dk[0][i] - 1 - difference(p.k[0][i])));
      worst = std::max(worst, std::abs(dv[0][i] - 1 - difference(p.v[0][i])));
    }
    CHECK(worst < 1e-8);
  }
}
