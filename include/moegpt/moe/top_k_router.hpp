#pragma once
// Top-k routing: z = W x, each token goes to the K experts with the largest logits (Shazeer et al. 2017; Switch
// is K = 1 with probability gates). Equal logits: the lower expert.
#include <moegpt/layers/linear.hpp>
#include <moegpt/moe/token_choice.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// The general form: gates by any rule (moe/token_choice.hpp).
template <int E, int K, class Rule, bool HasBias = false>
struct TopKRouterWith {
  static_assert(K >= 1 && K <= E,
                "TopKRouter: K must lie in 1 .. E: a token cannot choose more experts than exist");
  static constexpr int experts = E, active = K;
  static constexpr bool causal = true;

  template <int D, class T = float>
  struct For {
    using Scalar = T;
    static constexpr int dim = D;

    Linear<D, E, T, HasBias> gate;

    static constexpr auto fields() { return Fields{Field{"gate", &For::gate}}; }
    using Tape = TokenChoiceTape<E, K, T>;
    struct Scratch {
      Tokens<E, T> d_logits;
      void resize(const Pass& pass) { d_logits.resize(pass.tokens()); }
    };

    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      pass.check_fits(x.count, pass.tokens());
      tape.resize(pass);
      gate.forward(x, tape.score, pass);
      choose_experts<Rule>(plan, tape, pass);
    }
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Out<D, T> dx_sum, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      choose_experts_backward<Rule>(plan, tape, signal, scratch.d_logits.view(), pass);
      gate.backward_sum(x, scratch.d_logits, dx_sum, grad.gate, pass);
    }
  };
};
static_assert(Router<TopKRouterWith<4, 2, RenormalisedGates>>);

struct TopK {
  Gates gates = Gates::renormalised;
  bool bias = false;
  bool constant_gate = false;   // set by AllowConstantGate
};

// K = 1 takes the probability as its gate: renormalised it would be 1 whatever the router says.
template <int E, int K, TopK Options = TopK{.gates = K == 1 ? Gates::probability : Gates::renormalised}>
struct TopKRouter : TopKRouterWith<E, K, GateRule<Options.gates>, Options.bias> {
  static_assert(K > 1 || Options.gates == Gates::probability || Options.constant_gate,
                "TopKRouter: K = 1 with renormalised gates never trains the router, its gate is the constant 1: "
                "use Gates::probability, or AllowConstantGate<...> if that is meant");
  static std::string text() {
    const bool usual = Options.gates == (K == 1 ? Gates::probability : Gates::renormalised) && !Options.bias;
    const char* gates = Options.gates == Gates::renormalised ? "renormalised" : "probability";
    const std::string text = "TopKRouter<" + std::to_string(E) + ", " + std::to_string(K) +
                             (usual ? std::string() : std::string(", TopK{.gates = Gates::") + gates +
                                                          (Options.bias ? ", .bias = true}" : "}")) + ">";
    return Options.constant_gate ? "AllowConstantGate<" + text + ">" : text;
  }
};
static_assert(lists_every_field<TopKRouter<4, 2>::For<4>>());
static_assert(Router<TopKRouter<4, 2>>);

template <int E, int K, TopK Options>
struct AllowConstantGate<TopKRouter<E, K, Options>>
    : TopKRouter<E, K, TopK{.gates = Options.gates, .bias = Options.bias, .constant_gate = true}> {};

}  // namespace moegpt::inline MOEGPT_BUILD
