#pragma once
// gradcheck: checks forward and backward of a layer, expert, router or model, built-in or user-defined, in
// double.
//
// Derivatives of f(w) = <y, dy> + losses of a mixture are compared with differences
// (testing/differences.hpp), for every tensor. Near a kink or a top-k tie the point is resampled. Invariants
// of layers/layer.hpp are checked, too: gradients accumulate, dx is overwritten (a router's dx is a Sum and
// accumulates), backward may run twice, and results do not depend on stale memory: for layers from other
// shapes, lengths, keys and capacities, for models from another shape and key, for routers from other tokens.
// For layers and routers two threads give the bits of one, and another forward between forward and backward
// changes nothing. For a layer with a memory: testing/gradcheck_memory.hpp.
#include <moegpt/model/batch.hpp>
#include <moegpt/moe/feed_forward.hpp>
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/testing/gradcheck_memory.hpp>
#include <moegpt/testing/tensors.hpp>
#include <moegpt/testing/trunk_probe.hpp>
#include <moegpt/testing/verify_plan.hpp>

#include <type_traits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// For a layer over tokens: Linear, norms, attention, mixtures, blocks. Its scalar must be double.
template <Layer L>
GradcheckReport gradcheck(const GradcheckOptions& options = {}) {
  static_assert(std::is_same_v<typename L::Scalar, double>,
                "gradcheck computes in double: give the layer T = double");
  using namespace testing;
  return until_differentiable(options, [&](GradcheckReport& report, Rng& rng) {
    Pass pass = options.pass;
    if (!pass.routing) pass.routing = &options.routing;
    L layer, grad, grad2;
    draw_weights(layer, rng, options.spread);
    Tokens<L::dim_in, double> x(pass.tokens()), other(pass.tokens()), dx(pass.tokens()), dx2(pass.tokens());
    Tokens<L::dim_out, double> y(pass.tokens()), y2(pass.tokens()), dy(pass.tokens());
    for (auto* t : {&x.memory(), &other.memory(), &dy.memory()}) draw(*t, rng, options.spread);
    typename L::Tape tape, tape2;
    typename L::Scratch scratch, scratch2;

    for_each_other_pass(pass, [&](const Pass& stale) {  // stale values in tape and scratch ...
      Tokens<L::dim_in, double> stale_x(stale.tokens()), stale_dx(stale.tokens());
      Tokens<L::dim_out, double> stale_y(stale.tokens()), stale_dy(stale.tokens());
      draw(stale_x.memory(), rng, options.spread);
      draw(stale_dy.memory(), rng, options.spread);
      forward(layer, stale_x, stale_y, tape, scratch, stale);
      backward(layer, stale_x, tape, stale_dy, stale_dx, grad, scratch, stale);
    });
    forward(layer, other, y, tape, scratch, pass);
    backward(layer, other, tape, dy, dx, grad, scratch, pass);
    set_zero(grad);
    dx.memory().fill(std::numeric_limits<double>::quiet_NaN());
    y.memory().fill(std::numeric_limits<double>::quiet_NaN());
    forward(layer, x, y, tape, scratch, pass);  // ... must not matter
    backward(layer, x, tape, dy, dx, grad, scratch, pass);
    if (std::any_of(dx.memory().begin(), dx.memory().end(), [](double v) { return std::isnan(v); }))
      report_failure(report, "dx is not overwritten: NaNs from before are still in it");
    if (const std::string path = first_not_finite(grad); !path.empty())
      report_failure(report, path + ": its gradient is not finite");

    set_all(grad2, 1);
    pass.exec.threads = 2;
    forward(layer, x, y2, tape2, scratch2, pass);
    L grad_threads;
    backward(layer, x, tape2, dy, dx2, grad_threads, scratch2, pass);
    const auto bytes = [](auto& t) { return sizeof(double) * t.memory().size(); };
    if (std::memcmp(y[0], y2[0], bytes(y)) != 0 || std::memcmp(dx[0], dx2[0], bytes(dx)) != 0 ||
        !same_bits(grad, grad_threads))
      report_failure(report, "two threads or fresh memory change the result");
    pass.exec.threads = 1;
    L grad_later;
    // Another forward between this forward and its backward.
    forward(layer, other, y2, tape2, scratch2, pass);
    backward(layer, x, tape, dy, dx2, grad_later, scratch2, pass);
    if (std::memcmp(dx[0], dx2[0], bytes(dx)) != 0 || !same_bits(grad, grad_later))
      report_failure(report,
                     "backward reads state outside its arguments: another forward changed its result");
    backward(layer, x, tape, dy, dx2, grad2, scratch, pass);
    backward(layer, x, tape, dy, dx2, grad2, scratch, pass);
    if (!adds(grad, grad2, 1)) report_failure(report, "gradients of weights do not add to existing values");
    if (std::memcmp(dx[0], dx2[0], bytes(dx)) != 0)
      report_failure(report, "a second backward gives another dx");
    if constexpr (AddsToDx<L>) {
      dx2.memory().fill(1);
      backward(layer, x, tape, dy, Sum(dx2), grad2, scratch, pass);
      for (Index i = 0; i < dx.memory().size() && report.ok; ++i)
        if (!(std::abs(dx2.memory()[i] - 1 - dx.memory()[i]) <= 1e-9 * (1 + std::abs(dx.memory()[i]))))
          report_failure(report, "a Sum is not added to");
    }

    if (!report.ok) return Point::differentiable;  // resampling would not change this
    std::vector<TensorUnderTest> tensors{{"x", x[0], dx[0], pass.tokens() * L::dim_in}};
    add_tensors(tensors, layer, grad);
    const HeldPass held(pass);
    return compare(
        [&] {
          forward(layer, x, y, tape, scratch, held.pass);
          return value_of(y.memory(), dy.memory(), tape, pass);
        },
        tensors, options, report);
  });
}

// For a router: random derivatives of gates, mean scores, loads and a loss of its own (if its tape has them)
// and z-loss. Its plans are verified, also under a capacity, with forbidden experts and with padding.
template <RouterOf R>
GradcheckReport gradcheck(const GradcheckOptions& options = {}, const DropRule& rule = {}) {
  static_assert(std::is_same_v<typename R::Scalar, double>,
                "gradcheck computes in double: give the router T = double");
  using namespace testing;
  constexpr int D = R::dim;
  return until_differentiable(options, [&](GradcheckReport& report, Rng& rng) {
    Pass pass = options.pass;
    if (!pass.routing) pass.routing = &options.routing;
    R router, grad;
    draw_weights(router, rng, options.spread);
    RoutingPlan<double> plan;
    plan.drop = rule;
    typename R::Tape tape;
    typename R::Scratch scratch;
    Tokens<D, double> x(pass.tokens()), other(pass.tokens()), dx(pass.tokens());
    draw(x.memory(), rng, 2 * options.spread);
    draw(other.memory(), rng, 2 * options.spread);
    const std::string fault = failure_of([&] { verify_plans<R>(router, rule, x, pass); });
    if (!fault.empty()) {
      report_failure(report, fault);
      return Point::differentiable;
    }
    router.forward(other, plan, tape, pass);  // leaves stale values
    router.forward(x, plan, tape, pass);
    const int E = plan.experts;
    Buffer<double> d_pair(plan.tokens * plan.choices), d_slot(plan.slot_count()), d_mean(E), mean(E),
        d_load(E);
    draw(d_pair, rng, 1);
    draw(d_mean, rng, 1);
    draw(d_load, rng, 1);
    const double z = 0.3, own = 0.4;
    const HeldPass held(pass);
    auto value = [&] {  // derivatives belong to (token, choice) pairs, because slots change with the routing
      router.forward(x, plan, tape, held.pass);
      double f = 0;
      for (Index s = 0; s < plan.slot_count(); ++s)
        f += d_pair[plan.token[s] * plan.choices + plan.choice[s]] * plan.gate[s];
      mean_scores<double>(tape.score, Group::batch, pass, mean.data());
      for (int e = 0; e < E; ++e) f += d_mean[e] * mean[e];
      if constexpr (HasExpectedLoad<typename R::Tape>)
        for (int e = 0; e < E; ++e) f += d_load[e] * tape.load[e];
      if constexpr (HasOwnLoss<typename R::Tape>) f += own * tape.own_loss;
      return f + z * z_loss<double>(tape.lse, pass);
    };
    for (Index s = 0; s < plan.slot_count(); ++s)
      d_slot[s] = d_pair[plan.token[s] * plan.choices + plan.choice[s]];
    const RouterSignal<double> signal{d_slot.data(), d_mean.data(), z,  Group::batch,
                                      d_load.data(), nullptr,       own};
    router.backward(x, plan, tape, signal, Sum(dx), grad, scratch, pass);

    RoutingPlan<double> plan_threads;
    plan_threads.drop = rule;
    typename R::Tape tape_threads;
    typename R::Scratch scratch_threads;
    Tokens<D, double> dx_threads(pass.tokens());
    R grad_threads;
    pass.exec.threads = 2;
    router.forward(x, plan_threads, tape_threads, pass);
    const bool same_plan =
        plan_threads.slot_count() == plan.slot_count() &&
        std::memcmp(plan_threads.gate.data(), plan.gate.data(), bytes_of<double>(plan.slot_count())) == 0;
    router.forward(other, plan_threads, tape_threads, pass);  // between a forward and its backward
    router.backward(x, plan, tape, signal, Sum(dx_threads), grad_threads, scratch_threads, pass);
    pass.exec.threads = 1;
    if (!same_plan || !same_bits(grad, grad_threads) ||
        std::memcmp(dx[0], dx_threads[0], sizeof(double) * pass.tokens() * D) != 0)
      report_failure(report, "two threads, fresh memory or another forward in between change the result");

    Tokens<D, double> dx2(pass.tokens());
    dx2.memory().fill(1);
    R grad2;
    set_all(grad2, 1);
    router.backward(x, plan, tape, signal, Sum(dx2), grad2, scratch, pass);
    router.backward(x, plan, tape, signal, Sum(dx2), grad2, scratch, pass);
    if (!adds(grad, grad2, 1)) report_failure(report, "gradients of weights do not add to existing values");
    for (Index i = 0; i < pass.tokens() * D; ++i)
      if (std::abs(dx2.memory()[i] - 1 - 2 * dx.memory()[i]) > 1e-9)
        report_failure(report, "dx is not added to");
    if (!report.ok) return Point::differentiable;  // resampling would not change this
    std::vector<TensorUnderTest> tensors{{"x", x[0], dx[0], pass.tokens() * D}};
    add_tensors(tensors, router, grad);
    return compare(value, tensors, options, report);
  });
}

// The same for a router specification, with its drop policy: gradcheck<TopKRouter<8, 2>>().
template <Router Recipe, int D = 6>
GradcheckReport gradcheck(const GradcheckOptions& options = {}) {
  return gradcheck<typename Recipe::template For<D, double>>(options, drop_rule_of<Recipe>());
}

// For an expert: alone, and in a MoE layer for the gradients of gates.
template <ExpertNetwork X>
GradcheckReport gradcheck(const GradcheckOptions& options = {}) {
  const GradcheckReport alone = gradcheck<FeedForward<X>>(options);
  return alone.ok ? gradcheck<MoELayer<TopKRouter<3, 2>, X>>(options) : alone;
}

// A whole model: GPT<config, router, double>, or another with the same forward and backward. The gradient of
// loss.total() on a random batch, whose targets are below Model::classes, if there is such a number, or are
// ids. There is one target for each token, or Model::targets_in(shape), if it has this function. With a loss
// beside it, if one is given: beside(model, grad) returns a function of the weights, and adds its gradient to
// *grad, unless grad is null.
template <class Model, class LossOfWeights = testing::NoLossOfWeights>
  requires(requires { Model::config; } && !testing::is_transformer<Model>)
GradcheckReport gradcheck(const GradcheckOptions& options = {}, LossOfWeights beside = {}) {
  static_assert(std::is_same_v<typename Model::Scalar, double>,
                "gradcheck computes in double: give the model T = double");
  using namespace testing;
  return until_differentiable(options, [&](GradcheckReport& report, Rng& rng) {
    Model model, grad, grad2;
    model.options = options.pass.options;
    draw_weights(model, rng, options.spread);
    constexpr int classes = [] {
      if constexpr (requires { Model::classes; })
        return Model::classes;
      else
        return Model::config.vocab;
    }();
    const auto targets_in = [](Shape shape) {
      if constexpr (requires { Model::targets_in(shape); })
        return Model::targets_in(shape);
      else
        return shape.tokens();
    };
    Batch batch{options.pass.shape, {}, {}};
    for (Index n = 0; n < batch.shape.tokens(); ++n) {
      batch.inputs.push_back(static_cast<int>(rng.below(Model::config.vocab)));
      if (n >= targets_in(batch.shape)) continue;
      batch.targets.push_back(n == 1 ? -1 : static_cast<int>(rng.below(classes)));  // one is ignored
    }
    if (options.pass.lengths)
      batch.lengths.assign(options.pass.lengths, options.pass.lengths + batch.shape.batch);
    typename Model::Workspace work{batch.shape, options.pass.exec, options.routing.objective};
    typename Model::Workspace used{batch.shape, options.pass.exec, options.routing.objective};
    Batch other{{1, batch.shape.length},
                {batch.inputs.begin(), batch.inputs.begin() + batch.shape.length},
                {batch.targets.begin(), batch.targets.begin() + targets_in({1, batch.shape.length})}};
    const auto backward = [&](auto& of, Model& to) {
      model.backward(batch, of, to);
      beside(model, &to);
    };
    for (const bool keyed : {true, false}) {  // leaves stale values in the workspace
      used.objective.dropout = 0.25;
      model.forward(other, used, keyed ? std::optional<Key>(Key{7}) : std::nullopt);
      model.backward(other, used, grad2);
    }
    used.objective = options.routing.objective;
    set_zero(grad2);
    model.forward(batch, used, options.pass.key);
    backward(used, grad2);
    model.forward(batch, work, options.pass.key);
    backward(work, grad);
    if (!same_bits(grad, grad2))
      report_failure(report, "a workspace that was used before changes the gradient");
    set_all(grad2, 1);
    backward(work, grad2);
    backward(work, grad2);
    if (!adds(grad, grad2, 1)) report_failure(report, "gradients of weights do not add to existing values");
    if (!report.ok) return Point::differentiable;  // resampling would not change this
    std::vector<TensorUnderTest> tensors;
    add_tensors(tensors, model, grad);
    work.objective.hold_detached = true;
    return compare(
        [&] {
          return model.forward(batch, work, options.pass.key).total(work.objective) +
                 beside(model, static_cast<Model*>(nullptr));
        },
        tensors, options, report);
  });
}

// A trunk, Transformer<config, router, double>: the gradient of <y, dy> and the losses of the routers.
template <class Trunk>
  requires testing::is_transformer<Trunk>
GradcheckReport gradcheck(const GradcheckOptions& options = {}) {
  return gradcheck<testing::TrunkProbe<Trunk>>(options);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
