#pragma once
// Learned expert masks, one per task id t: the gate of expert e is g_e m_te, not renormalised. Masks start at
// 1. With Adam's EmptyExpert::skip only steps of task t change m_t; with zero_gradient, moments and weight
// decay change it in other steps too. For continual learning freeze it after its task (train/freeze.hpp). To
// exclude experts, use AllowedExperts (routing/allowed_experts.hpp).
#include <moegpt/core/heap_array.hpp>
#include <moegpt/routing/router_around.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Around any router that fills a plan. RoutingContext::task selects the mask; std::invalid_argument outside
// 0 .. Tasks - 1.
template <Router Recipe, int Tasks = 1>
struct Masked : RouterAround<Recipe> {
  static_assert(Tasks >= 1, "Masked: one mask for each task, and at least one task");
  static constexpr int E = Recipe::experts;
  static std::string text()
    requires requires { Recipe::text(); }
  {
    return "Masked<" + Recipe::text() + ", " + std::to_string(Tasks) + ">";
  }

  template <int D, class T = float>
  struct For : RouterAround<Recipe>::template For<D, T> {
    using Base = typename RouterAround<Recipe>::template For<D, T>;

    HeapArray<Weight<T, E>, Tasks> mask;

    static constexpr auto fields() {
      return Fields{Field{"", &For::inner}, Field{"mask", &For::mask, Kind::sparse, Start::one}};
    }
    struct Tape : Base::Tape {
      Buffer<T> unmasked_gate;  // [slots]
      int task = 0;
      [[gnu::noinline]] void resize(const Pass& pass) {
        Base::Tape::resize(pass);
        unmasked_gate.resize(max_slots_of<Recipe>(pass));
      }
    };
    struct Scratch {
      typename Base::Scratch inner;
      Buffer<T> d_gate;  // [slots] gradient of unmasked_gate
      [[gnu::noinline]] void resize(const Pass& pass) {
        inner.resize(pass);
        d_gate.resize(max_slots_of<Recipe>(pass));
      }
    };

    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      const int task = routing_of(pass).task;
      check(task >= 0 && task < Tasks, "Masked: this is task ", task, ", but there are masks for tasks 0 .. ",
            Tasks - 1, "; set task of the workspace");
      tape.resize(pass);
      tape.task = task;
      Base::forward(x, plan, tape, pass);
      const auto& m = mask[static_cast<std::size_t>(tape.task)];
      for_each_slot(plan, pass, [&](int e, Index s) {
        tape.unmasked_gate[s] = plan.gate[s];
        plan.gate[s] *= m[e];
      });
    }

    // With unmasked gates g:  dg = m d_gate,  dm_e += sum of d_gate g over slots of e
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      const auto task = static_cast<std::size_t>(tape.task);
      const auto& m = mask[task];
      auto& dm = grad.mask[task];
      dm.touched = true;
      for_each_slot(plan, pass, [&](int e, Index s) {
        scratch.d_gate[s] = m[e] * signal.d_gate[s];
        if (!dm.empty()) dm[e] += signal.d_gate[s] * tape.unmasked_gate[s];
      });
      RouterSignal<T> unmasked = signal;
      unmasked.d_gate = scratch.d_gate.data();
      Base::backward(x, plan, tape, unmasked, dx, grad, scratch.inner, pass);
    }

   private:
    template <class F>
    static void for_each_slot(const RoutingPlan<T>& plan, const Pass& pass, F&& f) {
      pass.exec.parallel_for(E, [&](Index e) {
        for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s) f(static_cast<int>(e), s);
      });
    }
  };
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
