#include <moegpt/model/gpt.hpp>
#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/router_around.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/planted_router.hpp"

using namespace moegpt;

namespace {

enum class Fault {
  none,
  wrong_sign_of_dx,
  weight_forgotten,
  dx_added_to,
  gradient_assigned,
  reads_the_last_input,
  reads_scratch,
  tape_worn_out,
  tape_not_cleared,
  key_remembered,
  size_remembered,
  padding_remembered,
  result_by_threads,
  not_a_number,
  not_differentiable
};

Fault planted = Fault::none;  // at run time: one layer to compile instead of one for each fault

// y = w x^2 feature by feature, with a planted fault.
struct Planted {
  using Scalar = double;
  static constexpr int dim_in = 3, dim_out = 3;
  Weight<double, 3> weight;
  Weight<double, 3> offset;

  static constexpr Field offset_field{"offset", &Planted::offset, Kind::buffer};
  static constexpr auto fields() { return Fields{Field{"weight", &Planted::weight}, offset_field}; }
  struct Tape {
    Tokens<3, double> squares;
    mutable double wear = 0;
    double noise = 0;
    Index most = 0;
    bool padded = false;
    void resize(const Pass& pass) { squares.resize(pass.tokens()); }
  };
  struct Scratch {
    Tokens<3, double> input;
    void resize(const Pass& pass) { input.resize(pass.tokens()); }
  };
  mutable Tokens<3, double> last{};

  void forward(In<3, double> x, Out<3, double> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    tape.resize(pass);
    scratch.resize(pass);
    last.resize(pass.tokens());
    if (pass.key) tape.noise = 1;
    if (pass.tokens() > tape.most) tape.most = pass.tokens();
    if (pass.lengths) tape.padded = true;
    for (Index i = 0; i < 3 * x.count; ++i) {
      const double before = planted == Fault::tape_not_cleared ? tape.squares[0][i] : 0;
      tape.squares[0][i] = before + x.data[i] * x.data[i];
      scratch.input[0][i] = last[0][i] = x.data[i];
      y.data[i] = weight[i % 3] * tape.squares[0][i] + offset[i % 3];
      if (planted == Fault::key_remembered) y.data[i] += tape.noise;
      if (planted == Fault::size_remembered) y.data[i] += static_cast<double>(tape.most);
      if (planted == Fault::padding_remembered && tape.padded) y.data[i] += 1;
      if (planted == Fault::result_by_threads && pass.exec.threads > 1) y.data[i] *= 1 + 1e-16 * 4;
      if (planted == Fault::not_differentiable) y.data[i] += 1e-3 * std::sin(1e7 * x.data[i]);
    }
  }
  void backward(In<3, double> x, const Tape& tape, In<3, double> dy, Out<3, double> dx, Planted& grad,
                Scratch& scratch, const Pass&) const {
    for (Index i = 0; i < 3 * x.count; ++i) {
      const double input = planted == Fault::reads_the_last_input ? last[0][i]
                           : planted == Fault::reads_scratch      ? scratch.input[0][i]
                                                                  : x.data[i];
      const double sign = planted == Fault::wrong_sign_of_dx ? -1 : 1;
      if (planted == Fault::dx_added_to)
        dx.data[i] += 2 * weight[i % 3] * input * dy.data[i];
      else
        dx.data[i] = sign * 2 * weight[i % 3] * input * dy.data[i] + tape.wear;
    }
    if (planted == Fault::tape_worn_out) tape.wear += 1e-3;
    for (Index i = 0; i < 3; ++i) {
      double sum = 0;
      for (Index n = 0; n < x.count; ++n) sum += dy[n][i] * tape.squares[n][i];
      if (planted == Fault::not_a_number) sum = std::numeric_limits<double>::quiet_NaN();
      if (planted == Fault::weight_forgotten) sum = 0;
      if (planted == Fault::gradient_assigned)
        grad.weight[i] = sum;
      else
        grad.weight[i] += sum;
    }
  }
};

static_assert(Layer<Planted>);

// The same weight as an expert's.
struct PlantedExpert : Planted {
  static constexpr auto fields() {
    return Fields{Field{"weight", &Planted::weight, Kind::sparse}, Planted::offset_field};
  }
};

template <Layer L = Planted>
std::string message(Fault fault) {
  planted = fault;
  const GradcheckReport report = gradcheck<L>();
  planted = Fault::none;
  CHECK(report.ok == report.message.empty());
  CHECK(static_cast<bool>(report) == report.ok);
  return report.message;
}
bool names(const std::string& message, std::string_view what) {
  CAPTURE(message);
  CHECK(message.find(what) != std::string::npos);
  return !message.empty();
}

// Gates renormalised over the chosen in forward, but not in backward.
struct ForgetsRenormalisation {
  template <class T>
  static void forward(const T* z, const T* s, T* gate, int K) {
    RenormalisedGates::forward(z, s, gate, K);
  }
  template <class T>
  static void backward(const T* s, const T* gate, const T* d_gate, T* dz, T* ds, int K) {
    ProbabilityGates::backward(s, gate, d_gate, dz, ds, K);
  }
};
using Honest = TopKRouter<5, 2>::For<6, double>;
struct OverwritesDx : Honest {
  void backward(In<6, double> x, const RoutingPlan<double>& plan, const Tape& tape,
                const RouterSignal<double>& signal, Sum<6, double> dx, OverwritesDx& grad, Scratch& scratch,
                const Pass& pass) const {
    std::fill_n(dx[0], 6 * dx.count(), 0.0);
    Honest::backward(x, plan, tape, signal, dx, grad, scratch, pass);
  }
};
struct IgnoresBalance : Honest {
  void backward(In<6, double> x, const RoutingPlan<double>& plan, const Tape& tape,
                RouterSignal<double> signal, Sum<6, double> dx, IgnoresBalance& grad, Scratch& scratch,
                const Pass& pass) const {
    signal.d_mean_score = nullptr;
    Honest::backward(x, plan, tape, signal, dx, grad, scratch, pass);
  }
};
struct AssignsGradient : Honest {
  void backward(In<6, double> x, const RoutingPlan<double>& plan, const Tape& tape,
                const RouterSignal<double>& signal, Sum<6, double> dx, AssignsGradient& grad,
                Scratch& scratch, const Pass& pass) const {
    set_zero(grad);
    Honest::backward(x, plan, tape, signal, dx, grad, scratch, pass);
  }
};

// own_loss = sum_e c_e P_e, with P the mean scores and c = P a constant. Planted: forward always computes c.
bool holds_its_constants = true;
struct Detaching : RouterAround<TopKRouter<4, 2>> {
  template <int D, class T = float>
  struct For : RouterAround<TopKRouter<4, 2>>::For<D, T> {
    using Base = typename RouterAround<TopKRouter<4, 2>>::template For<D, T>;
    struct Tape : Base::Tape {
      static constexpr bool has_own_loss = true;
      T own_loss = 0;
      T constant[4] = {};  // [E]
    };
    struct Scratch {
      typename Base::Scratch inner;
      Tokens<4, T> d_score;
      void resize(const Pass& pass) { resize_all(pass, inner, d_score); }
    };
    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      Base::forward(x, plan, tape, pass);
      T mean[4];
      mean_scores<T>(tape.score, Group::batch, pass, mean);
      const bool holds = routing_of(pass).objective.hold_detached && holds_its_constants;
      if (!holds) std::copy_n(mean, 4, tape.constant);
      tape.own_loss = 0;
      for (int e = 0; e < 4; ++e) tape.own_loss += tape.constant[e] * mean[e];
    }
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, RouterSignal<T> signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      for (Index n = 0; n < pass.tokens(); ++n)
        for (int e = 0; e < 4; ++e)
          scratch.d_score[n][e] = signal.own * tape.constant[e] / static_cast<T>(routed_tokens(pass));
      signal.d_score = scratch.d_score[0];
      Base::backward(x, plan, tape, signal, dx, grad, scratch.inner, pass);
    }
  };
};

// It says that capacity is not for it.
struct Unlimited : PlantedRouter {
  static constexpr DropRule drop{.order = Drop::never};
};
template <class Recipe>
std::string message(RouterFault fault) {
  router_fault = fault;
  const GradcheckReport report = gradcheck<Recipe>();
  router_fault = RouterFault::none;
  return report.message;
}

}  // namespace

TEST_CASE("gradcheck accepts a layer without faults, and reports the largest error and its tensor") {
  const GradcheckReport report = gradcheck<Planted>();
  CHECK(report.ok);
  CHECK(report.message.empty());
  CHECK(report.worst < 1e-9);
  CHECK((report.where == "x" || report.where == "weight"));  // the buffer is not examined
}

TEST_CASE("gradcheck rejects a wrong derivative and names the tensor and both values") {
  const std::string said = message(Fault::wrong_sign_of_dx);
  names(said, "x: backward says ");
  names(said, "differences say ");
  names(message(Fault::weight_forgotten), "weight: backward says 0, differences say ");
  names(message<PlantedExpert>(Fault::weight_forgotten), "weight: backward says 0, differences say ");
  CHECK(message<PlantedExpert>(Fault::none).empty());
  names(message(Fault::not_a_number), "weight[0]: its gradient is not finite");
}

TEST_CASE("gradcheck rejects a dx that is added to instead of overwritten") {
  names(message(Fault::dx_added_to), "dx is not overwritten");
}

TEST_CASE("gradcheck rejects a gradient that is assigned instead of added") {
  names(message(Fault::gradient_assigned), "do not add");
}

TEST_CASE("gradcheck rejects a backward that reads state outside its arguments") {
  names(message(Fault::reads_the_last_input), "outside its arguments");
  names(message(Fault::reads_scratch), "outside its arguments");
}

TEST_CASE("gradcheck rejects a backward that changes its tape") {
  CHECK_FALSE(message(Fault::tape_worn_out).empty());
}

TEST_CASE("gradcheck rejects a forward that depends on stale memory, and one that depends on threads") {
  names(message(Fault::tape_not_cleared), "fresh memory");
  names(message(Fault::result_by_threads), "two threads");
}

TEST_CASE("gradcheck rejects a layer that depends on the key, batch size or padding of an earlier call") {
  names(message(Fault::key_remembered), "fresh memory");
  names(message(Fault::size_remembered), "fresh memory");
  names(message(Fault::padding_remembered), "fresh memory");
}

TEST_CASE("gradcheck fails if it finds no differentiable point") {
  names(message(Fault::not_differentiable), "no differentiable point in 20 draws");
}

TEST_CASE("gradcheck rejects a router without renormalisation in backward") {
  using Faulty = TopKRouterWith<5, 2, ForgetsRenormalisation>::For<6, double>;
  const GradcheckReport report = gradcheck<Faulty>();
  CHECK_FALSE(report.ok);
  names(report.message, "backward says");
  CHECK(gradcheck<TopKRouterWith<5, 2, RenormalisedGates>::For<6, double>>().ok);
}

TEST_CASE(
    "gradcheck rejects a router that overwrites dx, one that ignores the balance loss and one that assigns") {
  names(gradcheck<OverwritesDx>().message, "dx is not added to");
  names(gradcheck<IgnoresBalance>().message, "backward says");
  names(gradcheck<AssignsGradient>().message, "do not add");
  CHECK(gradcheck<Honest>().ok);
}

TEST_CASE("gradcheck rejects a router whose plan ignores the pass or contradicts itself") {
  const auto message = [](RouterFault fault) {
    const std::string found = ::message<PlantedRouter>(fault);
    CHECK(found == ::message<PlantedRouter::For<6, double>>(fault));
    return found;
  };
  CHECK(message(RouterFault::none).empty());
  names(message(RouterFault::ignores_capacity),
        "under a capacity factor of 0.4: capacity is ignored: expert ");
  names(message(RouterFault::ignores_allowed), "without some experts: expert ");
  names(message(RouterFault::ignores_allowed), "gets tokens, but it is not allowed");
  names(message(RouterFault::routes_padding), "with padding: padding is routed: token ");
  names(message(RouterFault::same_expert_twice), "token 0 chose expert ");
  names(message(RouterFault::same_expert_twice), " twice");
  names(message(RouterFault::slots_disagree), "the plan is inconsistent: slot ");
  names(message(RouterFault::offsets_descend), "the plan is inconsistent: the slots of expert 0 ");
  names(message(RouterFault::too_few_tokens),
        "the plan is inconsistent: it is for 9 tokens, the pass has 10");
  names(message(RouterFault::tape_disagrees), "the tape says that choice 0 of token 0 is expert ");
}

TEST_CASE("gradcheck of a router specification checks capacity by its drop policy") {
  using ByChoice = Dropping<PlantedRouter, Drop::slot_major, Group::sequence>;
  CHECK(message<ByChoice>(RouterFault::none).empty());
  names(message<ByChoice>(RouterFault::ignores_capacity), "capacity is ignored: expert ");
  CHECK(message<Unlimited>(RouterFault::ignores_capacity).empty());
}

TEST_CASE("gradcheck holds a detached quantity of a router, mixture or model constant, if forward does") {
  using Mixture = MoELayer<Detaching, Expert<6, 5, Activation::gelu, double>>;
  constexpr Config config{.vocab = 7, .context = 5, .dim = 6, .layers = 2, .heads = 2, .hidden = 5};
  using Model = GPT<config, Detaching, double>;
  GradcheckOptions options{.per_tensor = 16};
  options.routing.objective.own = 3;
  for (const bool holds : {true, false}) {
    holds_its_constants = holds;
    CHECK(gradcheck<Detaching>(options).ok == holds);
    CHECK(gradcheck<Mixture>(options).ok == holds);
    CHECK(gradcheck<Model>(options).ok == holds);
  }
  holds_its_constants = true;
}

TEST_CASE("a layer with a kink is examined at smooth points, for any seed") {
  using Kinked = Expert<6, 5, Activation::relu, double>;
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    const GradcheckReport report = gradcheck<Kinked>({.seed = seed});
    CAPTURE(seed, report.message);
    CHECK(report.ok);
  }
}
