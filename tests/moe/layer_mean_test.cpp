#include <moegpt/moe/layer_mean.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/routed_pass.hpp"

using namespace moegpt;

namespace {

// Tapes of three MoE layers of four experts, and their LayerMean.
struct Three {
  LossTape<double> tape[3];
  LayerMean<double> mean;
  RoutedPass pass;
  explicit Three(const BalanceRule& rule) : pass({.shape = {2, 5}}, {.objective = {.balance_rule = rule}}) {
    mean.start(4, pass);
    for (int l = 0; l < 3; ++l) {
      tape[l].resize(4, pass);
      const auto seed = static_cast<std::uint64_t>(l);
      tape[l].load_share = random_numbers<double>(tape[l].load_share.size(), 1 + seed);
      tape[l].mean_score = random_numbers<double>(tape[l].load_share.size(), 7 + seed);
      tape[l].balance =
          balance_loss(tape[l].load_share.data(), tape[l].mean_score.data(), 4, groups_in(rule.group, pass));
      mean.add(tape[l]);
    }
  }
};

}  // namespace

TEST_CASE("pooled, f and P are averaged over layers before they are multiplied") {
  const Three three(BalanceRule::huggingface);
  double loss = 0;
  for (int e = 0; e < 4; ++e) {
    double f = 0, P = 0;
    for (const auto& t : three.tape) f += t.load_share[e] / 3, P += t.mean_score[e] / 3;
    loss += 4 * f * P;
  }
  CHECK(three.mean.loss(BalanceRule::huggingface) == Approx(loss).epsilon(1e-14));
}

TEST_CASE("the mean over layers is the mean of their losses, and the sum their sum") {
  const Three three(BalanceRule::megablocks);
  const double sum = three.tape[0].balance + three.tape[1].balance + three.tape[2].balance;
  CHECK(three.mean.loss(BalanceRule::megablocks) == Approx(sum / 3).epsilon(1e-15));
  CHECK(Three(BalanceRule::deepseek).mean.loss(BalanceRule::deepseek) != 0);
  CHECK(three.mean.loss(BalanceRule{}) == sum);
}

TEST_CASE("the terms of the MoE layers add up to the model's loss") {
  BalanceRule by_sequence = BalanceRule::huggingface;
  by_sequence.group = Group::sequence;
  for (const BalanceRule& rule :
       {BalanceRule::huggingface, BalanceRule::megablocks, by_sequence, BalanceRule{}}) {
    Three three(rule);
    double parts = 0;
    for (auto& t : three.tape) {
      three.mean.divide(rule, t);
      parts += t.balance;
    }
    CHECK(parts == Approx(three.mean.loss(rule)).epsilon(1e-14));
  }
}

TEST_CASE("a mean over layers is reset by every forward, also after another rule") {
  Three three(BalanceRule::huggingface);
  three.pass.context.objective.balance_rule = {};
  three.mean.start(4, three.pass);
  CHECK(three.mean.loss({}) == 0);
  three.mean.add(three.tape[1]);
  CHECK(three.mean.loss({}) == three.tape[1].balance);
  CHECK(three.mean.load_share.size() == 0);
}
