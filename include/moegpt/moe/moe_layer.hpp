#pragma once
// The mixture: y_n = sum_j g_nj expert_{i_nj}(x_n), routed by any Router. A token without experts gets zero;
// the residual connection around the layer carries it. Forward has three steps: route, experts, combine. It
// copies no tokens to slots, experts read them through Gathered; backward copies dy to slots.
#include <moegpt/core/heap_array.hpp>
#include <moegpt/kernels/dispatch.hpp>
#include <moegpt/kernels/dropout.hpp>
#include <moegpt/layers/expert.hpp>
#include <moegpt/moe/mixture_losses.hpp>
#include <moegpt/moe/top_k_router.hpp>

#include <algorithm>

namespace moegpt::inline MOEGPT_BUILD {

// Rows of one expert that one thread works on. Shapes and routing decide them, threads do not.
struct ExpertTask {
  int expert;
  Rows rows;
};

template <Router Recipe, ExpertNetwork ExpertType>
struct MoELayer {
  static_assert(gate_learns<Recipe>());
  static_assert(Recipe::experts >= 1 && Recipe::active >= 1 && Recipe::active <= Recipe::experts,
                "MoELayer: a router has at least one expert, and gives a token at least one and at most all of them");
  static_assert(Recipe::experts <= 1 << 16, "MoELayer: at most 65536 experts");
  using Scalar = typename ExpertType::Scalar;
  using T = Scalar;
  using RouterType = typename Recipe::template For<ExpertType::dim, T>;
  static constexpr int D = ExpertType::dim, DOut = output_dim<ExpertType>(), E = Recipe::experts;
  static constexpr int dim_in = D, dim_out = DOut;
  static constexpr bool causal = Recipe::causal;
  static constexpr DropRule drop = drop_rule_of<Recipe>();
  static constexpr std::string_view name = "moe";

  RouterType router;
  HeapArray<ExpertType, E> experts;

  static constexpr auto fields() {
    return Fields{Field{"router", &MoELayer::router}, Field{"experts", &MoELayer::experts, Kind::sparse}};
  }
  struct Tape : LossTape<T> {
    RoutingPlan<T> plan;
    typename RouterType::Tape router;
    typename ExpertType::Tape expert;    // slots
    double dropout = 0;
    Key noise{};
    [[gnu::noinline]] void resize(const Pass& pass) {
      const Index slot_count = pass.tokens() * Recipe::active;
      LossTape<T>::resize(E, pass);
      plan.resize(pass.tokens(), Recipe::active, E);
      router.resize(pass);
      expert.resize(slot_count);
    }
  };
  struct Scratch {
    typename RouterType::Scratch router;
    typename ExpertType::Scratch expert;
    Tokens<DOut, T> output, d_output;    // slots: what experts answered
    Tokens<D, T> d_input;                // slots
    Buffer<T> d_weight;                  // [slots]
    LossScratch<T> losses;
    Buffer<ExpertTask> tasks;
    [[gnu::noinline]] void resize(const Pass& pass) {
      const Index slot_count = pass.tokens() * Recipe::active;
      tasks.resize(E + slot_count / expert_rows(slot_count) + 1);
      router.resize(pass);
      expert.resize(slot_count);
      output.resize(slot_count);
      d_output.resize(slot_count);
      d_input.resize(slot_count);
      d_weight.resize(slot_count);
      losses.resize(E, pass);
    }
  };

  void forward(In<D, T> x, Out<DOut, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    check_objective(routing_of(pass).objective);
    tape.resize(pass);
    scratch.resize(pass);
    tape.dropout = applied_expert_dropout(pass);
    tape.noise = pass.key ? pass.key->with(Purpose::expert_dropout) : Key{};
    RoutingPlan<T>& plan = tape.plan;

    plan.drop = drop;
    router.forward(x, plan, tape.router, pass);
    check_plan(plan, E, Recipe::active, drop, router_text<Recipe>, pass);
    for_each_task(plan, scratch, pass, [&](int e, Rows rows) {
      const ExpertType& expert = experts[static_cast<std::size_t>(e)];
      expert.forward(tokens_of(x, plan, rows), scratch.output.rows(rows), tape.expert, scratch.expert, rows);
      drop_slots(tape, scratch.output.rows(rows), rows, pass);
    });
    kernels::combine<T>(pass.exec, scratch.output, plan.slot.data(), plan.choices, plan.weight.data(), y);

    measure_losses<T>(tape.router, plan, tape, pass);
  }

  void backward(In<D, T> x, const Tape& tape, In<DOut, T> dy, Out<D, T> dx, MoELayer& grad, Scratch& scratch,
                const Pass& pass) const {
    scratch.resize(pass);
    const RoutingPlan<T>& plan = tape.plan;

    for_each_task(plan, scratch, pass, [&](int e, Rows rows) {
      const auto d_output = scratch.d_output.rows(rows);
      kernels::gather<T>(dy, plan.token.data() + rows.first, d_output);
      drop_slots(tape, d_output, rows, pass);
      const ExpertType& expert = experts[static_cast<std::size_t>(e)];
      expert.backward(tokens_of(x, plan, rows), tape.expert, d_output, plan.weight.data() + rows.first,
                      scratch.d_input.rows(rows), scratch.d_weight.data() + rows.first, scratch.expert, rows);
      kernels::scale_rows<T>(plan.weight.data() + rows.first, d_output);
    });
    for (int e = 0; e < E; ++e)
      if (plan.load(e) > 0) touch(grad.experts[static_cast<std::size_t>(e)]);
    for_each_weight_part(plan, scratch, pass, [&](int e, Index part, Rows rows) {
      const ExpertType& expert = experts[static_cast<std::size_t>(e)];
      expert.backward_weights(part, tokens_of(x, plan, rows), tape.expert, scratch.d_output.view().rows(rows),
                              grad.experts[static_cast<std::size_t>(e)], scratch.expert, rows);
    });
    if (!dx.empty())
      kernels::combine<T>(pass.exec, scratch.d_input, plan.slot.data(), plan.choices, nullptr, dx);
    const RouterSignal<T> signal =
        signal_of_losses<T>(tape, tape.router, plan, scratch.d_weight.data(), scratch.losses, pass);
    router.backward(x, plan, tape.router, signal, Sum(dx), grad.router, scratch.router, pass);
  }

 private:
  // The tokens whose slots are `rows`.
  static Gathered<D, T> tokens_of(In<D, T> x, const RoutingPlan<T>& plan, Rows rows) {
    return {x, plan.token.data() + rows.first, rows.count};
  }
  // f(expert, rows) for pieces of every expert's slots, in parallel across experts, largest first.
  template <class F>
  static void for_each_task(const RoutingPlan<T>& plan, Scratch& scratch, const Pass& pass, F&& f) {
    Index count = 0;
    for (int e = 0; e < E; ++e) {
      const Pieces pieces{plan.load(e), expert_rows(plan.tokens * plan.choices)};
      for (Index i = 0; i < pieces.size(); ++i) {
        const Rows piece = pieces[i];
        scratch.tasks[count++] = {e, {plan.offset[e] + piece.first, piece.count}};
      }
    }
    largest_first(scratch.tasks, count);
    pass.exec.parallel_for(count, [&](Index i) { f(scratch.tasks[i].expert, scratch.tasks[i].rows); });
  }
  // f(expert, part of its weights, all its rows), likewise.
  template <class F>
  static void for_each_weight_part(const RoutingPlan<T>& plan, Scratch& scratch, const Pass& pass, F&& f) {
    Index count = 0;
    for (int e = 0; e < E; ++e)
      if (plan.load(e) > 0) scratch.tasks[count++] = {e, plan.rows(e)};
    largest_first(scratch.tasks, count);
    constexpr Index parts = ExpertType::weight_parts;
    pass.exec.parallel_for(count * parts, [&](Index i) {
      const ExpertTask& task = scratch.tasks[i / parts];
      f(task.expert, i % parts, task.rows);
    });
  }
  static void largest_first(Buffer<ExpertTask>& tasks, Index count) {
    std::sort(tasks.data(), tasks.data() + count, [](const ExpertTask& a, const ExpertTask& b) {
      return a.rows.count != b.rows.count ? a.rows.count > b.rows.count : a.rows.first < b.rows.first;
    });
  }
  // The mask of a slot belongs to its token and choice, not to its place among the expert's tokens.
  static void drop_slots(const Tape& tape, Out<DOut, T> slot_rows, Rows rows, const Pass& pass) {
    if (tape.dropout == 0) return;
    for (Index i = 0; i < rows.count; ++i) {
      const Index s = rows.first + i;
      const Index pair = pass.number_of(tape.plan.token[s]) * tape.plan.choices + tape.plan.choice[s];
      kernels::drop(slot_rows[i], DOut, tape.dropout, tape.noise, pair);
    }
  }
};

// The layer that a recipe stands for: a MoELayer, unless the recipe has a layer of its own, Mixture<Self, Expert>,
// where Self is the recipe as the user wrote it (AllowNonCausal<...> around it counts).
namespace detail {
template <class Recipe, ExpertNetwork ExpertType>
struct MixtureFor {
  using type = MoELayer<Recipe, ExpertType>;
};
template <class Recipe, ExpertNetwork ExpertType>
  requires requires { typename Recipe::template Mixture<Recipe, ExpertType>; }
struct MixtureFor<Recipe, ExpertType> {
  using type = typename Recipe::template Mixture<Recipe, ExpertType>;
};
}  // namespace detail
template <class Recipe, ExpertNetwork ExpertType>
using MixtureOf = typename detail::MixtureFor<Recipe, ExpertType>::type;

static_assert(lists_every_field<MoELayer<TopKRouter<4, 2>, Expert<4, 8>>>());
static_assert(Layer<MoELayer<TopKRouter<4, 2>, Expert<4, 8>>>);

}  // namespace moegpt::inline MOEGPT_BUILD
