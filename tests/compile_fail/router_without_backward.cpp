// A router needs a backward.
// expect: router.backward
#include <moegpt/moe/moe_layer.hpp>

using namespace moegpt;

// Each token to the expert of its position.
struct RoundRobin {
  static constexpr int experts = 4, active = 1;
  static constexpr bool causal = true;

  template <int D, class T = float>
  struct For {
    using Scalar = T;
    static constexpr int dim = D;
    static constexpr auto fields() { return Fields<>{}; }
    using Tape = TokenChoiceTape<experts, active, T>;
    using Scratch = Nothing;
    void forward(In<D, T>, RoutingPlan<T>&, Tape&, const Pass&) const {}
#ifndef FAULT
    void backward(In<D, T>, const RoutingPlan<T>&, const Tape&, const RouterSignal<T>&, Sum<D, T>, For&,
                  Scratch&, const Pass&) const {}
#endif
  };
};
using Layer6 = MoELayer<RoundRobin, Expert<6, 9>>;
