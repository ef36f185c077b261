#pragma once
// Base of a router around another. It inherits or forwards constants, drop rule, weights and their paths,
// tape, padding, allowed experts and the signal. A wrapper derives its specification, its For and, if needed,
// its Tape and Scratch, and defines only what it changes (routing/input_jitter.hpp, routing/masked.hpp,
// docs/extend.md).
#include <moegpt/routing/router.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <Router Recipe>
struct RouterAround : Recipe {
  static std::string text() = delete;  // not inherited: it names the inner router

  template <int D, class T = float>
  struct For {
    using Scalar = T;
    using Inner = typename Recipe::template For<D, T>;
    using Tape = typename Inner::Tape;
    using Scratch = typename Inner::Scratch;
    static constexpr int dim = D;

    Inner inner;

    static constexpr auto fields() { return Fields{Field{"", &For::inner}}; }
    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      inner.forward(x, plan, tape, pass);
    }
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      inner.backward(x, plan, tape, signal, dx, grad.inner, scratch, pass);
    }
  };
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
