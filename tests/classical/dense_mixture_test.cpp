#include <moegpt/classical/dense_mixture.hpp>

#include <moegpt/layers/linear_expert.hpp>

#include "differences.hpp"
#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

// A hidden layer of tanh, another type than Linear.
struct Network {
  using Scalar = double;
  static constexpr int dim_in = 3, dim_out = 2;
  Linear<3, 4, double> first;
  Linear<4, 2, double> second;
  static constexpr auto fields() {
    return Fields{Field{"first", &Network::first}, Field{"second", &Network::second}};
  }
  struct Tape {
    Tokens<4, double> hidden;
    void resize(const Pass& pass) { hidden.resize(pass); }
  };
  struct Scratch {
    Tokens<4, double> d_hidden;
    void resize(const Pass& pass) { d_hidden.resize(pass); }
  };
  void forward(In<3, double> x, Out<2, double> y, Tape& tape, const Pass& pass) const {
    tape.resize(pass);
    first.forward(x, tape.hidden, pass);
    for (double& h : tape.hidden.memory()) h = std::tanh(h);
    second.forward(tape.hidden, y, pass);
  }
  template <class Dx>
  void backward(In<3, double> x, const Tape& tape, In<2, double> dy, Dx dx, Network& grad, Scratch& s,
                const Pass& pass) const {
    s.resize(pass);
    second.backward(tape.hidden, dy, s.d_hidden, grad.second, pass);
    for (Index i = 0; i < s.d_hidden.count() * 4; ++i)
      s.d_hidden[0][i] *= 1 - tape.hidden[0][i] * tape.hidden[0][i];
    first.backward(x, s.d_hidden, dx, grad.first, pass);
  }
};

using Mixture = DenseMixture<Linear<3, 3, double>, Linear<3, 2, double>, Network, Linear<3, 2, double>>;

struct Case {
  static constexpr Index N = 5;
  Mixture mixture, grad;
  Mixture::Tape tape;
  Mixture::Scratch scratch;
  Tokens<3, double> x, dx{N};
  Tokens<2, double> target;
  Pass pass{.shape = {1, N}};
  std::vector<int> labels{0, 1, 1, 0, 1};

  explicit Case(std::uint64_t seed)
      : x(random_tokens<3, double>(N, seed)), target(random_tokens<2, double>(N, seed + 9)) {
    draw_weights(mixture, seed);
    set_zero(grad);
  }
  double loss(MixtureLoss rule) {
    mixture.forward(x, {}, tape, scratch, pass);
    return rule == MixtureLoss::classification ? mixture.classification_loss(labels.data(), tape, pass)
                                               : mixture.loss(rule, target, tape, pass);
  }
  void backward(MixtureLoss rule, double factor = 1) {
    if (rule == MixtureLoss::classification)
      mixture.backward_classification(x, labels.data(), tape, dx, grad, scratch, pass, factor);
    else
      mixture.backward_loss(rule, x, target, tape, dx, grad, scratch, pass, factor);
  }
};
constexpr MixtureLoss all_losses[] = {MixtureLoss::cooperative, MixtureLoss::competitive,
                                      MixtureLoss::log_mixture, MixtureLoss::classification};

}  // namespace

TEST_CASE("gradients of a mixture of different layers are its differences") {
  gradcheck_three_seeds<Mixture>();
}

TEST_CASE("gradients of each loss of Jacobs et al. are its differences") {
  for (const MixtureLoss rule : all_losses)
    for (const std::uint64_t seed : {1, 2, 3}) {
      Case c(seed);
      c.loss(rule);
      c.backward(rule);
      CAPTURE(static_cast<int>(rule), seed);
      CHECK(worst_gradient_error(c.mixture, c.grad, c.x, c.dx, [&] { return c.loss(rule); }) <= 1e-6);
    }
}

TEST_CASE("losses have the values of their formulas") {
  Case c(4);
  double cooperative = 0, competitive = 0, log_mixture = 0, classification = 0;
  c.loss(MixtureLoss::cooperative);
  for (Index n = 0; n < Case::N; ++n) {
    double mean[2] = {}, weighted = 0, likelihood = 0, probability = 0;
    for (int i = 0; i < 3; ++i) {
      const double p = c.tape.p[n][i], *o = c.tape.out[static_cast<std::size_t>(i)][n];
      const double squares = std::pow(c.target[n][0] - o[0], 2) + std::pow(c.target[n][1] - o[1], 2);
      for (int k = 0; k < 2; ++k) mean[k] += p * o[k];
      weighted += p * squares;
      likelihood += p * std::exp(-squares / 2);
      probability +=
          p * std::exp(o[c.labels[static_cast<std::size_t>(n)]]) / (std::exp(o[0]) + std::exp(o[1]));
    }
    cooperative += (std::pow(c.target[n][0] - mean[0], 2) + std::pow(c.target[n][1] - mean[1], 2)) / 5;
    competitive += weighted / 5;
    log_mixture -= std::log(likelihood) / 5;
    classification -= std::log(probability) / 5;
  }
  CHECK(c.loss(MixtureLoss::cooperative) == Approx(cooperative));
  CHECK(c.loss(MixtureLoss::competitive) == Approx(competitive));
  CHECK(c.loss(MixtureLoss::log_mixture) == Approx(log_mixture));
  CHECK(c.loss(MixtureLoss::classification) == Approx(classification));
}

TEST_CASE("gradients add, a factor scales them, dx may be empty, and threads change no bit") {
  for (const MixtureLoss rule : all_losses) {
    Case one(5), two(5), threads(5);
    threads.pass.exec = Exec{3};
    for (Case* c : {&one, &two, &threads}) c->loss(rule);
    one.backward(rule), one.backward(rule);
    two.backward(rule, 2);
    threads.backward(rule);
    two.dx.resize(0);
    double worst = 0;
    for_each_weight(
        [&](const auto& a, const auto& b) {
          for (Index i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
        },
        one.grad, two.grad);
    CHECK(worst < 1e-12);
    CHECK(same_bits(one.dx, threads.dx));
  }
}

TEST_CASE("the selector takes experts by their probabilities") {
  Case c(6);
  c.loss(MixtureLoss::log_mixture);
  const double* p = c.tape.p[0];
  CHECK(Mixture::drawn(c.tape, 0, 0) == 0);
  CHECK(Mixture::drawn(c.tape, 0, p[0] + p[1] / 2) == 1);
  CHECK(Mixture::drawn(c.tape, 0, 0.9999999) == 2);
  CHECK(p[Mixture::most_probable(c.tape, 0)] == std::max({p[0], p[1], p[2]}));
}

TEST_CASE("weights of experts have paths by number, and wrong targets are refused") {
  Case c(7);
  std::string paths;
  for_each_named_weight([&](const std::string& path, Kind, auto&) { paths += path + " "; }, c.mixture);
  CHECK(paths ==
        "gate.weight gate.bias experts.0.weight experts.0.bias experts.1.first.weight experts.1.first.bias "
        "experts.1.second.weight experts.1.second.bias experts.2.weight experts.2.bias ");
  c.loss(MixtureLoss::cooperative);
  CHECK_THAT(refusal([&] { c.mixture.loss(MixtureLoss::classification, c.target, c.tape, c.pass); }),
             ContainsSubstring("takes labels"));
  CHECK_THAT(
      refusal([&] { c.mixture.loss(MixtureLoss::competitive, c.target.rows({0, 2}), c.tape, c.pass); }),
      ContainsSubstring("2 targets for 5 tokens"));
  c.labels[2] = 2;
  CHECK_THAT(refusal([&] { c.loss(MixtureLoss::classification); }),
             ContainsSubstring("label 2 is 2, expected 0 .. 1"));
}
