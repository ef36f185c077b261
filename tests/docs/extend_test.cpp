// The excerpts of docs/extend.md: a layer, an expert and a router of one's own, and what gradcheck
// and check_router say of wrong ones.
#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <moegpt/routing/dropping.hpp>
#include <moegpt/testing/check_router.hpp>
#include <moegpt/testing/gradcheck.hpp>

using namespace moegpt;

namespace {

// y = w x, feature by feature (LayerScale, Touvron et al. 2021).
template <int D, class T = float>
struct Scale {
  using Scalar = T;
  static constexpr int dim_in = D, dim_out = D;

  Weight<T, D> weight;

  static constexpr auto fields() { return Fields{Field{"weight", &Scale::weight, Start::one}}; }
  using Tape = Nothing;
  using Scratch = Nothing;

  void forward(In<D, T> x, Out<D, T> y, const Pass& pass) const {
    for_each_piece(pass.exec, x.count, token_piece, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n)
        for (Index i = 0; i < D; ++i) y[n][i] = weight[i] * x[n][i];
    });
  }
  // dx = w dy,  dw += sum_n dy_n x_n
  void backward(In<D, T> x, In<D, T> dy, Out<D, T> dx, Scale& grad, const Pass&) const {
    for (Index n = 0; n < x.count; ++n)
      for (Index i = 0; i < D; ++i) {
        if (!dx.empty()) dx[n][i] = weight[i] * dy[n][i];
        if (!grad.weight.empty()) grad.weight[i] += dy[n][i] * x[n][i];
      }
  }
};
static_assert(lists_every_field<Scale<2>>());
static_assert(Layer<Scale<2>>);

// One linear map: the expert of Jacobs et al. 1991.
template <int D, class T = float>
struct AffineExpert {
  using Scalar = T;
  static constexpr int dim = D;

  Linear<D, D, T> map;

  static constexpr auto fields() { return Fields{Field{"map", &AffineExpert::map}}; }
  struct Tape {
    void resize(Index) {}
  };
  struct Scratch {
    Tokens<D, T> h;
    void resize(Index slot_count) { h.resize(slot_count); }
  };

  void forward(Gathered<D, T> x, Out<D, T> y, Tape&, Scratch&, Rows) const {
    kernels::affine<T>({}, x, map.weight, map.bias.data(), y);
  }
  // With h = W^T dy:  d_gate = <dy, W x + b> = <h, x> + <dy, b>,  dx = gate h
  void backward(Gathered<D, T> x, const Tape&, In<D, T> dy, const T* gate, Out<D, T> dx, T* d_gate,
                Scratch& scratch, Rows rows) const {
    const auto h = scratch.h.rows(rows);
    kernels::affine_backward<T>({}, dy, map.weight, h, false);
    for (Index s = 0; s < rows.count; ++s) {
      if (d_gate) d_gate[s] = kernels::dot(h[s], x[s], D) + kernels::dot(dy[s], map.bias.data(), D);
      for (int i = 0; i < D && !dx.empty(); ++i) dx[s][i] = (gate ? gate[s] : T(1)) * h[s][i];
    }
  }
  static constexpr Index weight_parts = Linear<D, D, T>::weight_parts;
  void backward_weights(Index part, Gathered<D, T> x, const Tape&, In<D, T> dy, AffineExpert& grad,
                        const Scratch&, Rows) const {
    map.backward_weights(part, x, dy, grad.map);
  }
};
static_assert(lists_every_field<AffineExpert<2>>());
static_assert(ExpertNetwork<AffineExpert<2>>);

// A token goes to every expert whose probability is at least the uniform one: to one if the router is sure,
// to several if it is not. The gate is the probability.
template <int E>
struct ThresholdRouter {
  static constexpr int experts = E, active = E;
  static constexpr bool causal = true;
  static std::string text() { return "ThresholdRouter<" + std::to_string(E) + ">"; }

  template <int D, class T = float>
  struct For {
    using Scalar = T;
    static constexpr int dim = D;

    Linear<D, E, T, false> gate;

    static constexpr auto fields() { return Fields{Field{"gate", &For::gate}}; }
    struct Tape {
      static constexpr bool has_choices = true;  // losses and intermediates may read `chosen`
      Tokens<E, T> score;                        // softmax of the logits
      Tokens<1, T> lse;                          // log sum exp of the logits
      Buffer<int> chosen;                        // [tokens, E] e where expert e is requested, else no_expert
      void resize(const Pass& pass) {
        score.resize(pass.tokens());
        lse.resize(pass.tokens());
        chosen.resize(pass.tokens() * E);
      }
    };
    struct Scratch {
      Tokens<E, T> d_logits;
      void resize(const Pass& pass) { d_logits.resize(pass.tokens()); }
    };

    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      tape.resize(pass);
      gate.forward(x, tape.score, pass);
      for (Index n = 0; n < pass.tokens(); ++n) {
        T* s = tape.score[n];
        for (int e = 0; e < E; ++e)
          if (!is_allowed(e, pass)) s[e] = kernels::minus_infinity<T>;
        *tape.lse[n] = kernels::softmax(s, E);
        for (int e = 0; e < E; ++e)
          tape.chosen[n * E + e] = s[e] >= T(1) / E && !pass.is_padding(n) ? e : no_expert;
      }
      plan.resize(pass.tokens(), E, E);
      plan.assign(tape.chosen.data(), tape.score[0], pass);
    }

    // gates: ds = dg;  balance: ds += d_mean_score / N;  dz = s (ds - <ds, s>);  z-loss: dz += 2 z / N lse s
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      const Index routed = routed_tokens(pass);
      for (Index n = 0; n < pass.tokens(); ++n) {
        T* dz = scratch.d_logits[n];
        T ds[E] = {};
        for (int e = 0; e < E; ++e) {
          const Index s = plan.slot[n * E + e];
          dz[e] = 0;
          if (pass.is_padding(n)) continue;
          if (s != no_slot) ds[e] = signal.d_gate[s];
          dz[e] = 2 * signal.z / static_cast<T>(routed) * *tape.lse[n] * tape.score[n][e];
        }
        signal.add_to_scores(n, routed, pass, E, ds);
        kernels::softmax_backward(tape.score[n], ds, dz, E);
      }
      gate.backward(x, scratch.d_logits, dx, grad.gate, pass);
    }
  };
};
static_assert(Router<ThresholdRouter<4>>);

// y = x + w mean(memory of the sequence), feature by feature.
template <int D, class T = float>
struct AddMean {
  using Scalar = T;
  static constexpr int dim_in = D, dim_out = D;

  Weight<T, D> weight;

  static constexpr auto fields() { return Fields{Field{"weight", &AddMean::weight}}; }
  struct Tape {
    Tokens<D, T> mean;  // [sequences]
  };
  using Scratch = Nothing;

  void forward(In<D, T> x, Memory<D, T> memory, Out<D, T> y, Tape& tape, Scratch&, const Pass& pass) const {
    tape.mean.resize(pass.shape.batch);
    tape.mean.memory().fill(0);
    for (Index b = 0; b < pass.shape.batch; ++b) {
      for_each_token(memory, b, [&](Index row, T share) {
        for (Index i = 0; i < D; ++i) tape.mean[b][i] += share * memory.tokens[row][i];
      });
      for (Index n = b * pass.shape.length; n < (b + 1) * pass.shape.length; ++n)
        for (Index i = 0; i < D; ++i) y[n][i] = x[n][i] + weight[i] * tape.mean[b][i];
    }
  }
  // dx = dy,  dw += s mean,  d_memory += w s / count,  s the sum of a sequence's dy
  void backward(In<D, T>, Memory<D, T> memory, const Tape& tape, In<D, T> dy, Out<D, T> dx,
                Sum<D, T> d_memory, AddMean& grad, Scratch&, const Pass& pass) const {
    for (Index b = 0; b < pass.shape.batch; ++b)
      for (Index i = 0; i < D; ++i) {
        T s = 0;
        for (Index n = b * pass.shape.length; n < (b + 1) * pass.shape.length; ++n) {
          s += dy[n][i];
          if (!dx.empty()) dx[n][i] = dy[n][i];
        }
        if (!grad.weight.empty()) grad.weight[i] += s * tape.mean[b][i];
        if (d_memory.empty()) continue;
        for_each_token(memory, b, [&](Index row, T share) { d_memory[row][i] += share * weight[i] * s; });
      }
  }

 private:
  // f(row, 1 / count) for the tokens of sequence b that are not padding
  template <class F>
  static void for_each_token(const Memory<D, T>& memory, Index b, F&& f) {
    const Index count = memory.lengths ? memory.lengths[b] : memory.length;
    for (Index t = 0; t < count; ++t) f(b * memory.length + t, T(1) / static_cast<T>(count));
  }
};
static_assert(lists_every_field<AddMean<2>>());
static_assert(LayerWithMemory<AddMean<2>, 2>);

// Wrong on purpose: the slope of a sigmoid is gate (1 - gate).
struct ForgetfulGates {
  template <class T>
  static void forward(const T* z, const T*, T* gate, int K) {
    for (int j = 0; j < K; ++j) gate[j] = 1 / (1 + std::exp(-z[j]));
  }
  template <class T>
  static void backward(const T*, const T* gate, const T* d_gate, T* dz, T*, int K) {
    for (int j = 0; j < K; ++j) dz[j] += d_gate[j] * gate[j];
  }
};

// Wrong on purpose: it does not heed which experts are allowed.
struct ForgetfulRouter : TopKRouter<5, 2> {
  template <int D, class T = float>
  struct For : TopKRouter<5, 2>::For<D, T> {
    using Base = typename TopKRouter<5, 2>::template For<D, T>;
    void forward(In<D, T> x, RoutingPlan<T>& plan, typename Base::Tape& tape, const Pass& pass) const {
      Pass all = pass;
      all.routing = nullptr;
      Base::forward(x, plan, tape, all);
    }
  };
};

}  // namespace

TEST_CASE("a user-defined layer, expert and router pass gradcheck") {
  for (std::uint64_t seed : {1, 2, 3}) {
    const GradcheckReport scale = gradcheck<Scale<6, double>>({.seed = seed});
    INFO(scale.message);
    CHECK(scale);
    const Index lengths[] = {4, 1};
    const GradcheckReport mean =
        gradcheck<AddMean<6, double>, 6>({.seed = seed}, {.length = 4, .lengths = lengths});
    INFO(mean.message);
    CHECK(mean);
    const GradcheckReport router = gradcheck<ThresholdRouter<5>>({.seed = seed});
    INFO(router.message);
    CHECK(router);
    GradcheckOptions options{.seed = seed};
    options.routing.objective = {.balance = 0.1, .z = 0.1};
    const GradcheckReport mixture = gradcheck<MoELayer<ThresholdRouter<3>, AffineExpert<4, double>>>(options);
    INFO(mixture.message);
    CHECK(mixture);
  }
}

TEST_CASE("every token has at least one expert under a threshold of the uniform probability") {
  ThresholdRouter<4>::For<3> router;  // all weights zero: all probabilities equal
  const Tokens<3, float> x(5);
  const Pass pass{.shape = {1, 5}};
  RoutingPlan<float> plan;
  ThresholdRouter<4>::For<3>::Tape tape;
  router.forward(x, plan, tape, pass);
  CHECK(plan.slot_count() == 5 * 4);
}

TEST_CASE("the router of the guide passes check_router, under another drop rule too") {
  const RouterReport promises = check_router<ThresholdRouter<5>>();
  INFO(promises.message);
  CHECK(promises);
  CHECK(check_router<Dropping<ThresholdRouter<5>, Drop::probability>>());
}

TEST_CASE("check_router reports a router that ignores allowed experts, and the remedy") {
  const RouterReport report = check_router<ForgetfulRouter>();
  CHECK(report.message ==
        "without some experts: expert 0 gets tokens, but it is not allowed: choose e only where "
        "is_allowed(e, pass)");
}

TEST_CASE("gradcheck names the tensor, both derivatives and the error of a wrong backward") {
  const GradcheckReport report = gradcheck<TopKRouterWith<5, 2, ForgetfulGates>>();
  CHECK_FALSE(report);
  CAPTURE(report.message);
  CHECK(report.message.find("x: backward says ") == 0);
  CHECK(report.message.find(", differences say ") != std::string::npos);
}
