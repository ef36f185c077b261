// The excerpts of docs/extend.md that are parts of a whole model: experts, losses and a block of one's own.
#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"
#include "support/routed_pass.hpp"

#include <moegpt/kernels/elementwise.hpp>
#include <moegpt/model/gpt.hpp>
#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/routing/input_jitter.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/routing/router_around.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/moe/with_experts.hpp>
#include <moegpt/testing/gradcheck.hpp>

using namespace moegpt;

namespace {

// Expert 0 is zero, expert 1 the identity, all others are ordinary (Jin et al. 2024, MoE++).
template <int D, int Dff, class T = float>
struct ZeroCopyExpert : Expert<D, Dff, Activation::gelu, T> {
  using Base = Expert<D, Dff, Activation::gelu, T>;
  using typename Base::Scratch;
  using typename Base::Tape;

  static std::string text() { return "ZeroCopyExpert"; }
  static bool ordinary(const ExpertTask& task) { return task.expert != 0 && task.expert != 1; }

  void forward(Gathered<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, ExpertTask task) const {
    if (ordinary(task)) return Base::forward(x, y, tape, scratch, task);
    for (Index s = 0; s < x.count; ++s) kernels::scale(D, T(task.expert), x[s], y[s]);
  }
  // y = c x:  d_gate = <dy, c x>,  dx = gate c dy
  void backward(Gathered<D, T> x, const Tape& tape, In<D, T> dy, const T* gate, Out<D, T> dx, T* d_gate,
                Scratch& scratch, ExpertTask task) const {
    if (ordinary(task)) return Base::backward(x, tape, dy, gate, dx, d_gate, scratch, task);
    const T c = T(task.expert);
    for (Index s = 0; s < x.count; ++s) {
      if (d_gate) d_gate[s] = c * kernels::dot(dy[s], x[s], D);
      if (!dx.empty()) kernels::scale(D, gate ? c * gate[s] : c, dy[s], dx[s]);
    }
  }
  void backward_weights(Index part, Gathered<D, T> x, const Tape& tape, In<D, T> dy, ZeroCopyExpert& grad,
                        const Scratch& scratch, ExpertTask task) const {
    if (ordinary(task)) Base::backward_weights(part, x, tape, dy, grad, scratch, task);
  }
};
static_assert(ExpertNetwork<ZeroCopyExpert<2, 3>>);

// The L1 norm of the gates, with a weight for each expert that grows with its load (Wang et al. 2024, ReMoE):
//   own_loss = (1/N) sum_e f_e sum_n g_ne,   f_e = E count_e / (N K), a constant
template <Router Recipe>
struct GateNorm : RouterAround<Recipe> {
  static std::string text()
    requires requires { Recipe::text(); }
  {
    return "GateNorm<" + Recipe::text() + ">";
  }

  template <int D, class T = float>
  struct For : RouterAround<Recipe>::template For<D, T> {
    using Base = typename RouterAround<Recipe>::template For<D, T>;

    struct Tape : Base::Tape {
      static constexpr bool has_own_loss = true;
      T own_loss = 0;
    };
    struct Scratch {
      typename Base::Scratch inner;
      Buffer<T> d_gate;  // [slots]
      void resize(const Pass& pass) {
        inner.resize(pass);
        d_gate.resize(max_slots_of<Recipe>(pass));
      }
    };

    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      Base::forward(x, plan, tape, pass);
      tape.own_loss = 0;
      for_each_slot(plan, pass, [&](Index s, T factor) { tape.own_loss += factor * plan.gate[s]; });
    }
    // d_gate += own f_e / N
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      RouterSignal<T> whole = signal;
      whole.d_gate = scratch.d_gate.data();
      for_each_slot(plan, pass,
                    [&](Index s, T factor) { scratch.d_gate[s] = signal.d_gate[s] + signal.own * factor; });
      Base::backward(x, plan, tape, whole, dx, grad, scratch.inner, pass);
    }

   private:
    // f(s, f_e / N) for each slot s of each expert e
    template <class F>
    static void for_each_slot(const RoutingPlan<T>& plan, const Pass& pass, F&& f) {
      const T N = static_cast<T>(routed_tokens(pass));
      for (int e = 0; e < plan.experts; ++e) {
        const T f_e = static_cast<T>(plan.experts * plan.wanted[e]) / (N * static_cast<T>(plan.choices));
        for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s) f(s, f_e / N);
      }
    }
  };
};
static_assert(Router<GateNorm<TopKRouter<4, 2>>>);

// A MoELayer with a loss on the outputs of its experts: (1/N) sum over slots of |output_s|^2 / 2.
template <Router Recipe, ExpertNetwork X>
struct OutputNormLayer {
  using Mixture = MoELayer<Recipe, X>;
  using Scalar = typename X::Scalar;
  using T = Scalar;
  static constexpr int D = X::dim, dim_in = D, dim_out = D;
  static constexpr bool causal = Mixture::causal;
  static constexpr std::string_view name = Mixture::name;

  Mixture mixture;

  static constexpr auto fields() { return Fields{Field{"", &OutputNormLayer::mixture}}; }
  struct Tape : Mixture::Tape {
    Tokens<D, T> output;  // slots
    void resize(const Pass& pass) {
      Mixture::Tape::resize(pass);
      output.resize(max_slots_of<Recipe>(pass));
    }
  };
  struct Scratch {
    typename Mixture::Scratch mixture;
    Tokens<D, T> d_output;  // slots
    Buffer<T> d_gate;
    void resize(const Pass& pass) {
      mixture.resize(pass);
      d_output.resize(max_slots_of<Recipe>(pass));
      d_gate.resize(max_slots_of<Recipe>(pass));
    }
  };

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    tape.resize(pass);
    scratch.resize(pass);
    mixture.route(x, tape, pass);
    mixture.run(x, tape.output, tape, scratch.mixture, pass);
    mixture.combine(tape.plan, tape.output, y, pass);
    measure_losses<T>(tape.router, tape.plan, tape, pass);
    double sum = 0;
    for (Index s = 0; s < tape.plan.slot_count(); ++s) sum += kernels::squared_norm(tape.output[s], D) / 2;
    tape.own += static_cast<T>(sum / tokens_of(pass));
  }
  // d_output_s += own / N output_s
  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, OutputNormLayer& grad,
                Scratch& scratch, const Pass& pass) const {
    scratch.resize(pass);
    const Out<D, T> d_output = scratch.d_output;
    mixture.combine_backward(tape.plan, tape.output, dy, d_output, scratch.d_gate.data(), pass);
    const T factor = static_cast<T>(objective_of(pass).own / tokens_of(pass));
    for (Index s = 0; s < tape.plan.slot_count(); ++s) kernels::axpy(D, factor, tape.output[s], d_output[s]);
    mixture.run_backward(x, tape, d_output, dx, grad.mixture, scratch.mixture, pass);
    mixture.route_backward(x, tape, scratch.d_gate.data(), Sum(dx), grad.mixture, scratch.mixture, pass);
  }
  auto routed_experts() const { return mixture.routed_experts(); }
  static double tokens_of(const Pass& pass) {
    return static_cast<double>(std::max<Index>(1, routed_tokens(pass)));
  }
};
static_assert(
    WrapsMixture<OutputNormLayer<TopKRouter<4, 2>, Expert<4, 8>>, MoELayer<TopKRouter<4, 2>, Expert<4, 8>>>);

// In a model: GPT<config, OutputNorm<TopKRouter<8, 2>>>.
template <Router Recipe>
struct OutputNorm {
  static constexpr int experts = Recipe::experts, active = Recipe::active;
  static constexpr bool causal = Recipe::causal;
  template <class Self, ExpertNetwork X>
  using Mixture = OutputNormLayer<AllowedAs<Self, Recipe>, X>;
};

// Beside a model: coefficient / 2 times the sum of squares of the routers' weights. Its gradient is added to
// *grad, unless grad is null.
struct RouterNorm {
  double coefficient;
  static bool of_router(const std::string& path) { return path.find(".router.") != std::string::npos; }

  template <class Model>
  double operator()(const Model& model, Model* grad) const {
    double sum = 0;
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto& w) {
          for (Index i = 0; i < w.size() && of_router(path); ++i) sum += static_cast<double>(w[i] * w[i]) / 2;
        },
        model);
    if (grad)
      for_each_named_weight(
          [&](const std::string& path, Kind, const auto& w, auto& g) {
            for (Index i = 0; i < g.size() && of_router(path); ++i)
              g[i] += static_cast<typename Model::Scalar>(coefficient) * w[i];
          },
          model, *grad);
    return coefficient * sum;
  }
};

// Attention and mixture side by side (Wang, Komatsuzaki 2021, GPT-J):
//   middle = norm(x),  y = x + attention(middle) + mixture(middle)
template <AttentionShape S, class NormType, class MixtureType>
struct ParallelBlock {
  static_assert(looks_back_only<MixtureType, S.mask>());
  using Scalar = typename MixtureType::Scalar;
  using T = Scalar;
  static constexpr int D = S.dim, dim_in = D, dim_out = D;
  using AttentionType = Attention<S, T>;

  NormType norm;
  AttentionType attention;
  MixtureType mixture;

  static constexpr auto fields() {
    return Fields{Field{"norm", &ParallelBlock::norm}, Field{"attention", &ParallelBlock::attention},
                  Field{MixtureType::name, &ParallelBlock::mixture}};
  }
  struct Tape {
    Tokens<D, T> middle, attended, mixed;
    typename NormType::Tape norm;
    typename AttentionType::Tape attention;
    typename MixtureType::Tape mixture;
    void resize(const Pass& pass) { resize_all(pass, middle, attended, mixed, norm, attention, mixture); }
  };
  struct Scratch {
    Tokens<D, T> d_middle, d_mixed;
    typename AttentionType::Scratch attention;
    typename MixtureType::Scratch mixture;
    void resize(const Pass& pass) { resize_all(pass, d_middle, d_mixed, attention, mixture); }
  };
  using Cache = KeyValues<AttentionType::Dkv, T>;

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass,
               const Cache* cache = nullptr) const {
    tape.resize(pass);
    norm.forward(x, tape.middle, tape.norm, pass);
    attention.forward(tape.middle, tape.attended, tape.attention, scratch.attention, pass, cache);
    mixture.forward(tape.middle, tape.mixed, tape.mixture, scratch.mixture, pass);
    kernels::add<T>(pass.exec, x, tape.attended, y);
    kernels::add<T>(pass.exec, y, tape.mixed, y);
  }
  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, ParallelBlock& grad,
                Scratch& scratch, const Pass& pass) const {
    scratch.resize(pass);
    attention.backward(tape.middle, tape.attention, dy, scratch.d_middle, grad.attention, scratch.attention,
                       pass);
    mixture.backward(tape.middle, tape.mixture, dy, scratch.d_mixed, grad.mixture, scratch.mixture, pass);
    kernels::add<T>(pass.exec, scratch.d_middle, scratch.d_mixed, scratch.d_middle);
    norm.backward(x, tape.norm, scratch.d_middle, dx, grad.norm, pass);
    if (!dx.empty()) kernels::add<T>(pass.exec, dx, dy, dx);
  }
};
static_assert(
    Layer<ParallelBlock<AttentionShape{.dim = 4, .heads = 2}, LayerNorm<4>, FeedForward<Expert<4, 8>>>>);

// In a model: GPT<config, InParallel<TopKRouter<8, 2>>>.
template <class Recipe>
struct InParallel {
  static constexpr int experts = Recipe::experts, active = Recipe::active;
  static constexpr bool causal = Recipe::causal;
  template <class Self, ExpertNetwork X>
  using Mixture = MixtureOf<AllowedAs<Self, Recipe>, X>;
  template <AttentionShape S, class NormType, class MixtureType>
  using Block = ParallelBlock<S, NormType, MixtureType>;
};

constexpr Config config{
    .vocab = 7, .context = 5, .dim = 6, .layers = 3, .heads = 2, .hidden = 5, .dense_first = 1};
using Probabilities = TopKRouter<4, 2, TopK{.gates = Gates::probability}>;

Batch some_batch() {
  Batch batch{{2, 5}, {}, {}};
  for (int n = 0; n < 10; ++n) batch.inputs.push_back(n * n % 7), batch.targets.push_back((n + 3) % 7);
  return batch;
}

// Of layer 1 or 2, which are mixtures.
template <class Model>
const auto& mixture_tape(const Workspace<Model>& work, std::size_t layer) {
  return work.tape.trunk.blocks.second[layer - 1].mixture;
}

}  // namespace

TEST_CASE("an expert that knows its number passes gradcheck, alone and in a mixture") {
  gradcheck_three_seeds<ZeroCopyExpert<6, 5, double>>();
  gradcheck_three_seeds<MoELayer<TopKRouter<4, 2>, ZeroCopyExpert<6, 5, double>>>();
}

TEST_CASE("expert 0 of the guide answers zero, expert 1 its token, and expert 2 is ordinary") {
  using X = ZeroCopyExpert<6, 5, double>;
  MoELayer<TopKRouter<3, 1, TopK{.gates = Gates::probability}>, X> layer;
  draw_weights(layer, 1);
  const auto x = random_tokens<6, double>(30, 2);
  Tokens<6, double> y(30);
  decltype(layer)::Tape tape;
  decltype(layer)::Scratch scratch;
  layer.forward(x, y, tape, scratch, {.shape = {1, 30}});
  Index count[3] = {};
  for (Index s = 0; s < 30; ++s) {
    const Index n = tape.plan.token[s];
    const int e = s < tape.plan.offset[1] ? 0 : s < tape.plan.offset[2] ? 1 : 2;
    ++count[e];
    double off = 0;
    for (int i = 0; i < 6; ++i) off += std::abs(y[n][i] - e * tape.plan.gate[s] * x[n][i]);
    CHECK((e == 2 ? off > 1e-3 : off < 1e-14));
  }
  for (const Index c : count) CHECK(c > 0);
}

TEST_CASE("the shared expert and the dense network of the guide's type have no number: they are ordinary") {
  using X = ZeroCopyExpert<6, 5, double>;
  using Recipe = WithExperts<SharedExperts<TopKRouter<1, 1>>, ZeroCopyExpert>;
  using Shared = MixtureOf<Recipe, Expert<6, 5, Activation::gelu, double>>;
  Shared shared;  // whose only routed expert is zero
  FeedForward<X> dense;
  draw_weights(shared, 1);
  dense.network = shared.shared;
  const auto x = random_tokens<6, double>(4, 2);
  Tokens<6, double> y(4), dense_y(4), expert_y(4);
  const auto run = [&](const auto& layer, auto& to) {
    typename std::remove_cvref_t<decltype(layer)>::Tape tape;
    typename std::remove_cvref_t<decltype(layer)>::Scratch scratch;
    layer.forward(x, to, tape, scratch, {.shape = {1, 4}});
  };
  run(shared, y);
  run(dense, dense_y);
  FeedForward<X::Base> plain;
  plain.network = shared.shared;
  run(plain, expert_y);
  CHECK(same_bits(dense_y, expert_y));
  CHECK(same_bits(y, expert_y));
}

TEST_CASE("a model with experts of one's own has the gradients of its differences") {
  using Model = GPT<config, WithExperts<TopKRouter<4, 2>, ZeroCopyExpert>, double>;
  static_assert(std::is_same_v<decltype(Model::Trunk::MoEBlock::mixture),
                               MoELayer<TopKRouter<4, 2>, ZeroCopyExpert<6, 5, double>>>);
  gradcheck_three_seeds<Model>({.routing = {.objective = {.balance = 0.3}}, .per_tensor = 16});
}

TEST_CASE("losses of one's own in a router and in a mixture have the gradients of their differences") {
  GradcheckOptions options;
  options.routing.objective = {.balance = 0.3, .own = 0.7};
  const Index lengths[2] = {5, 3};
  SECTION("plain") {}
  SECTION("dropout, capacity, padding") {
    options.pass.dropout = 0.3;
    options.pass.key = Key{3};
    options.pass.options.capacity_factor = 0.8;
    options.pass.lengths = lengths;
  }
  for (options.seed = 1; options.seed <= 3; ++options.seed) {
    const GradcheckReport router = gradcheck<GateNorm<Probabilities>>(options);
    INFO(router.message);
    CHECK(router);
    using Levels = HierarchicalRouter<GateNorm<TopKRouter<3, 2>>, GateNorm<TopKRouter<2, 1>>>;
    const GradcheckReport levels = gradcheck<Levels>(options);
    INFO(levels.message);
    CHECK(levels);
  }
  using X = Expert<6, 5, Activation::gelu, double>;
  gradcheck_three_seeds<MoELayer<GateNorm<Probabilities>, X>>(options);
  gradcheck_three_seeds<OutputNormLayer<GateNorm<Probabilities>, X>>(options);
}

TEST_CASE("losses of one's own join the loss of a model, with a weight for each layer, and its gradient") {
  using Model = GPT<config, OutputNorm<GateNorm<Probabilities>>, double>;
  const std::vector<double> weights{0, 0.5, 2};
  const Objective objective{.balance = 0.3, .own = 0.7, .layer_weights = weights};
  gradcheck_three_seeds<Model>({.routing = {.objective = objective}, .per_tensor = 16});

  Model model;
  draw_weights(model, 5);
  const Batch batch = some_batch();
  Model::Workspace work(batch.shape, {}, objective);
  const Loss loss = model.forward(batch, work);
  double own = 0;
  for (std::size_t layer : {1u, 2u}) {
    const auto& tape = mixture_tape(work, layer);
    double sum = 0;  // by the definitions
    for (int e = 0; e < 4; ++e)
      for (Index s = tape.plan.offset[e]; s < tape.plan.offset[e + 1]; ++s)
        sum += 4 * static_cast<double>(tape.plan.wanted[e]) / 20 * tape.plan.gate[s] / 10;
    for (Index s = 0; s < 20; ++s)
      for (int i = 0; i < 6; ++i) sum += tape.output[s][i] * tape.output[s][i] / 20;
    CHECK(tape.own == Approx(sum).epsilon(1e-13));
    own += weights[layer] * sum;
  }
  CHECK(loss.own == Approx(own).epsilon(1e-13));
  CHECK(loss.total(objective) == Approx(loss.cross_entropy + 0.3 * loss.balance + 0.7 * own).epsilon(1e-13));
}

TEST_CASE("a router's own loss with coefficient 0 changes no bit of a gradient") {
  using Own = GPT<config, GateNorm<Probabilities>, double>;
  using Plain = GPT<config, Probabilities, double>;
  Own own, own_grad;
  Plain plain, grad;
  draw_weights(own, 5);
  draw_weights(plain, 5);
  const Batch batch = some_batch();
  Own::Workspace own_work(batch.shape);
  Plain::Workspace work(batch.shape);
  const Loss loss = own.forward(batch, own_work);
  own.backward(batch, own_work, own_grad);
  plain.forward(batch, work);
  plain.backward(batch, work, grad);
  CHECK(loss.own > 0);
  std::vector<double> one, other;
  for_each_weight([&](const auto& g) { one.insert(one.end(), g.begin(), g.end()); }, own_grad);
  for_each_weight([&](const auto& g) { other.insert(other.end(), g.begin(), g.end()); }, grad);
  CHECK(one == other);
}

TEST_CASE("a loss beside the model has the gradients of its differences, and joins the step") {
  using Model = GPT<config, TopKRouter<4, 2>, double>;
  const GradcheckReport report = gradcheck<Model>({.per_tensor = 16}, RouterNorm{0.1});
  INFO(report.message);
  CHECK(report);

  Model model, grad;
  draw_weights(model, 5);
  const Batch batch = some_batch();
  Model::Workspace work(batch.shape);
  const RouterNorm router_norm{0.1};
  double loss = model.forward(batch, work).total(work.objective);
  model.backward(batch, work, grad);
  loss += router_norm(model, &grad);
  CHECK(loss > model.forward(batch, work).total(work.objective));
}

TEST_CASE("gradcheck finds a loss beside the model whose gradient is wrong") {
  const auto wrong = [](const auto& model, auto* grad) {
    if (grad) RouterNorm{0.1}(model, grad);
    return RouterNorm{0.2}(model, decltype(grad){});
  };
  const GradcheckReport report = gradcheck<GPT<config, TopKRouter<4, 2>, double>>({.per_tensor = 16}, wrong);
  CHECK_FALSE(report);
  CHECK(report.where.find(".router.") != std::string::npos);
}

TEST_CASE("a model of blocks of one's own has the gradients of its differences, its dense layers too") {
  using Model = GPT<config, InParallel<TopKRouter<4, 2>>, double>;
  STATIC_REQUIRE(std::is_same_v<decltype(Model::Trunk::DenseBlock::norm), LayerNorm<6, double>>);
  gradcheck_three_seeds<Model>({.routing = {.objective = {.balance = 0.3}}, .per_tensor = 16});
}

TEST_CASE("recipes nest in the order that the guide says, all of them at once") {
  using Routers = Dropping<GateNorm<InputJitter<HierarchicalRouter<TopKRouter<3, 2>, TopKRouter<2, 1>>>>,
                           Drop::token_order, Group::sequence>;
  using Gates = AllowConstantGate<Masked<Routers, 2>>;
  using Mixtures = WithExperts<SharedExperts<OutputNorm<Gates>, 1, Shared::gated>, ZeroCopyExpert>;
  using Model = GPT<config, AllowNonCausal<InParallel<Mixtures>>, double>;
  STATIC_REQUIRE_FALSE(Router<Mixtures>);
  STATIC_REQUIRE(
      std::is_same_v<decltype(Model::Trunk::MoEBlock::mixture.shared), ZeroCopyExpert<6, 5, double>>);
  STATIC_REQUIRE(
      std::is_same_v<decltype(Model::Trunk::MoEBlock::norm), LayerNorm<6, double>>);  // of InParallel
  GradcheckOptions options{.per_tensor = 8};
  options.pass.key = Key{3};
  options.pass.options.capacity_factor = 0.8;
  options.routing.objective = {.balance = 0.3, .own = 0.7};
  const GradcheckReport report = gradcheck<Model>(options);
  INFO(report.message);
  CHECK(report);
}

TEST_CASE("drop policies stand inside or outside of a router around another, with the same plan") {
  const auto x = random_tokens<6, double>(20, 3);
  const RoutedPass pass({.shape = {1, 20}, .options = {.capacity_factor = 0.6}}, {});
  const auto plan = [&]<class Recipe>(Recipe) {
    MoELayer<Recipe, Expert<6, 5, Activation::gelu, double>> layer;
    draw_weights(layer, 4);
    typename decltype(layer)::Tape tape;
    layer.route(x, tape, pass);
    REQUIRE(tape.plan.dropped() > 0);
    return std::vector<double>(tape.plan.gate.begin(), tape.plan.gate.end());
  };
  CHECK(plan(Masked<Dropping<Probabilities, Drop::probability>>{}) ==
        plan(Dropping<Masked<Probabilities>, Drop::probability>{}));
}

TEST_CASE("a model of blocks of one's own generates what its forward computes") {
  using Model = GPT<config, InParallel<TopKRouter<4, 2>>, double>;
  Model model;
  draw_weights(model, 5);
  const Batch batch = some_batch();
  Model::Workspace work(batch.shape), step({2, 1}, {}, {}, Use::inference);
  model.forward(batch, work);
  Model::Cache cache(2);
  for (int t = 0; t < 5; ++t) {
    const auto first = static_cast<std::size_t>(t);
    const std::vector<int> ids{batch.inputs[first], batch.inputs[5 + first]};
    const auto logits = model.logits(ids, step, cache);
    for (Index b = 0; b < 2; ++b) CHECK(distance(logits[b], work.tape.head.logits[5 * b + t], 7) < 1e-12);
  }
}
