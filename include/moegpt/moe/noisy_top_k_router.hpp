#pragma once
// Noisy top-k routing (Shazeer et al. 2017): h = W x + normal * (softplus(W_noise x) + floor), then top-k and
// softmax over the chosen h. Noise needs a key in the pass; without one, h = W x.
#include <moegpt/kernels/noise.hpp>
#include <moegpt/moe/token_choice.hpp>

namespace moegpt::inline MOEGPT_BUILD {

struct NoisyTopK {
  bool bias = false;              // makeMoE has biases in both maps, the paper in neither
  bool noise_floor = false;       // adds 0.01 to the standard deviation (Tensor2Tensor)
  bool constant_gate = false;     // set by AllowConstantGate
};

template <int E, int K, NoisyTopK Options = NoisyTopK{}>
struct NoisyTopKRouter {
  static_assert(K >= 1 && K <= E,
                "NoisyTopKRouter: K must lie in 1 .. E: a token cannot choose more experts than exist");
  static constexpr int experts = E, active = K;
  static constexpr bool causal = true;
  static std::string text() {
    std::string options = Options.bias && Options.noise_floor ? ".bias = true, .noise_floor = true"
                          : Options.bias                      ? ".bias = true"
                          : Options.noise_floor               ? ".noise_floor = true" : "";
    if (!options.empty()) options = ", NoisyTopK{" + options + "}";
    const std::string text = "NoisyTopKRouter<" + std::to_string(E) + ", " + std::to_string(K) + options + ">";
    return Options.constant_gate ? "AllowConstantGate<" + text + ">" : text;
  }

  template <int D, class T = float>
  struct For {
    static_assert(K > 1 || Options.constant_gate,
                  "NoisyTopKRouter: K = 1 with renormalised gates never trains the router, its gate is the constant "
                  "1: use AllowConstantGate<...> if that is meant");
    using Scalar = T;
    static constexpr int dim = D;

    Linear<D, E, T, Options.bias> gate, noise;

    static constexpr auto fields() { return Fields{Field{"gate", &For::gate}, Field{"noise", &For::noise}}; }
    struct Tape : TokenChoiceTape<E, K, T> {
      Tokens<E, T> spread, normal;   // W_noise x; the draws
      bool noisy = false;
      [[gnu::noinline]] void resize(const Pass& pass) {
        TokenChoiceTape<E, K, T>::resize(pass);
        spread.resize(pass.tokens());
        normal.resize(pass.tokens());
      }
    };
    struct Scratch {
      Tokens<E, T> d_logits, d_spread;
      [[gnu::noinline]] void resize(const Pass& pass) {
        d_logits.resize(pass.tokens());
        d_spread.resize(pass.tokens());
      }
    };

    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      pass.check_fits(x.count, pass.tokens());
      tape.resize(pass);
      tape.noisy = pass.key.has_value();
      gate.forward(x, tape.score, pass);
      if (tape.noisy) {
        const Key key = pass.key->with(Purpose::router_noise);
        noise.forward(x, tape.spread, pass);
        for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
          for (Index n = rows.first; n < rows.first + rows.count; ++n)
            key.normals(static_cast<std::uint64_t>(pass.number_of(n) * E), tape.normal[n], E);
          kernels::add_noise(tape.normal[rows.first], tape.spread[rows.first], floor, tape.score[rows.first],
                             rows.count * E);
        });
      }
      choose_experts<Decisions<>>(plan, static_cast<TokenChoiceTape<E, K, T>&>(tape), pass);
    }

    // dW = dh,  da = dh normal sigmoid(a)
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Out<D, T> dx_sum, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      choose_experts_backward<Decisions<>>(plan, static_cast<const TokenChoiceTape<E, K, T>&>(tape), signal, scratch.d_logits.view(), pass);
      gate.backward_sum(x, scratch.d_logits, dx_sum, grad.gate, pass);
      if (!tape.noisy) return;
      for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
        kernels::add_noise_backward(tape.normal[rows.first], tape.spread[rows.first],
                                    scratch.d_logits[rows.first], scratch.d_spread[rows.first],
                                    rows.count * E);
      });
      noise.backward_sum(x, scratch.d_spread, dx_sum, grad.noise, pass);
    }

   private:
    static constexpr T floor = Options.noise_floor ? T(0.01) : T(0);
  };
};
static_assert(lists_every_field<NoisyTopKRouter<4, 2>::For<4>>());
static_assert(Router<NoisyTopKRouter<4, 2>>);

template <int E, int K, NoisyTopK Options>
struct AllowConstantGate<NoisyTopKRouter<E, K, Options>>
    : NoisyTopKRouter<E, K, NoisyTopK{Options.bias, Options.noise_floor, true}> {};

}  // namespace moegpt::inline MOEGPT_BUILD
