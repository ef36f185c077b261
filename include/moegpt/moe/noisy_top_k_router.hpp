#pragma once
// Noisy top-k routing (Shazeer et al. 2017): h = W x + normal * (softplus(W_noise x) + floor), then top-k and
// softmax over the chosen h. Noise needs a key in the pass; without one, h = W x. Its tape holds the load of every
// expert: smooth (moe/load.hpp) with noise, K < E and a load loss in the objective; pairs counted before capacity
// otherwise.
#include <moegpt/kernels/noise.hpp>
#include <moegpt/moe/balance.hpp>
#include <moegpt/moe/load.hpp>

namespace moegpt::inline MOEGPT_BUILD {

struct NoisyTopK {
  bool bias = false;              // makeMoE has biases in both maps, the paper in neither
  bool noise_floor = false;       // adds 0.01 to the standard deviation (Tensor2Tensor)
  bool detached_threshold = false;   // the smooth load's thresholds are constants in backward
};

template <int E, int K, NoisyTopK Options = NoisyTopK{}>
struct NoisyTopKRouter : TokenChoice<E, K, Decisions<>> {
  static std::string text() {
    std::string options;
    const auto add = [&](bool on, const char* option) {
      if (on) options += (options.empty() ? "." : ", .") + std::string(option) + " = true";
    };
    add(Options.bias, "bias");
    add(Options.noise_floor, "noise_floor");
    add(Options.detached_threshold, "detached_threshold");
    if (!options.empty()) options = ", NoisyTopK{" + options + "}";
    return "NoisyTopKRouter<" + std::to_string(E) + ", " + std::to_string(K) + options + ">";
  }

  template <int D, class T = float>
  struct For {
    using Scalar = T;
    static constexpr int dim = D;

    Linear<D, E, T, Options.bias> gate, noise;

    static constexpr auto fields() { return Fields{Field{"gate", &For::gate}, Field{"noise", &For::noise}}; }
    struct Tape : TokenChoiceTape<E, K, T> {
      static constexpr bool has_smooth_load = true;
      Tokens<E, T> spread, normal;   // W_noise x; the draws
      Tokens<E, T> clean, chance;    // logits without noise; of being chosen. Only for a smooth load
      Buffer<T> load;                // [E]
      bool noisy = false, smooth = false;
      [[gnu::noinline]] void resize(const Pass& pass) {
        TokenChoiceTape<E, K, T>::resize(pass);
        spread.resize(pass.tokens());
        normal.resize(pass.tokens());
        load.resize(E);
        if (K == E || routing_of(pass).objective.load == 0) return;
        clean.resize(pass.tokens());
        chance.resize(pass.tokens());
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
      tape.smooth = tape.noisy && K < E && routing_of(pass).objective.load != 0;
      gate.forward(x, tape.score, pass);
      if (tape.smooth) std::memcpy(tape.clean[0], tape.score[0], bytes_of<T>(pass.tokens() * E));
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
      for (int e = 0; e < E; ++e) tape.load[e] = static_cast<T>(plan.wanted[e]);
      if (!tape.smooth) return;
      for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n)
          if (!pass.is_padding(n)) Chances(tape, n, pass).chance.forward(tape.chance[n]);
      });
      sum_over_tokens<T>(tape.chance, {0, pass.tokens()}, pass,
                         [&](Index e, double sum) { tape.load[e] = static_cast<T>(sum); });
    }

    // dW = dh,  da = dh normal sigmoid(a);  a smooth load adds to dh at thresholds, then to dc and by d to da:
    // dW = dh + dc,  da = (dh normal + dd) sigmoid(a)
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Out<D, T> dx_sum, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      choose_experts_backward<Decisions<>>(plan, static_cast<const TokenChoiceTape<E, K, T>&>(tape), signal,
                                           scratch.d_logits.view(), pass);
      if (tape.noisy)
        for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
          if (tape.smooth && signal.d_load)
            for (Index n = rows.first; n < rows.first + rows.count; ++n) load_backward(tape, n, signal, scratch, pass);
          else
            kernels::add_noise_backward(tape.normal[rows.first], tape.spread[rows.first], scratch.d_logits[rows.first],
                                        scratch.d_spread[rows.first], rows.count * E);
        });
      gate.backward_sum(x, scratch.d_logits, dx_sum, grad.gate, pass);
      if (tape.noisy) noise.backward_sum(x, scratch.d_spread, dx_sum, grad.noise, pass);
    }

   private:
    static constexpr T floor = Options.noise_floor ? T(0.01) : T(0);

    // A token's chances, from what the tape holds of it.
    struct Chances {
      T deviation[E], noisy[E];
      int order[K + 1];
      ChosenChance<T> chance;
      Chances(const Tape& tape, Index n, const Pass& pass) : chance{tape.clean[n], noisy, deviation, E, K, order} {
        const T* a = tape.spread[n];
        kernels::map(E, a, deviation, [](Vector<T> v) { return kernels::softplus<T>(v) + floor; });
        for (int e = 0; e < E; ++e)
          noisy[e] = is_allowed(e, pass) ? tape.clean[n][e] + tape.normal[n][e] * deviation[e]
                                         : kernels::minus_infinity<T>;
        chance.rank();
      }
    };
    static void load_backward(const Tape& tape, Index n, const RouterSignal<T>& signal, Scratch& scratch,
                              const Pass& pass) {
      T *dh = scratch.d_logits[n], *da = scratch.d_spread[n], d_clean[E] = {}, d_deviation[E] = {};
      if (!pass.is_padding(n))
        Chances(tape, n, pass).chance.backward(signal.d_load, Options.detached_threshold, d_clean, d_deviation, dh);
      kernels::add_noise_backward(tape.normal[n], tape.spread[n], dh, da, E);
      kernels::map2(E, d_deviation, tape.spread[n], d_deviation, [](Vector<T> d, Vector<T> a) {
        return d / (T(1) + kernels::exponential(-a));
      });
      for (int e = 0; e < E; ++e) {
        da[e] += d_deviation[e];
        dh[e] += d_clean[e];
      }
    }
  };
};
static_assert(lists_every_field<NoisyTopKRouter<4, 2>::For<4>>());
static_assert(Router<NoisyTopKRouter<4, 2>>);

}  // namespace moegpt::inline MOEGPT_BUILD
