#pragma once
// Noisy top-k routing (Shazeer et al. 2017): h = W x + normal * (softplus(W_noise x) + floor), then top-k of
// h and softmax over the selected h. Without a key in the pass h = W x. The tape has the load of each expert:
// the expected load (routing/load.hpp) with noise, K < E and a load loss in the objective, otherwise the
// requested pairs.
#include <moegpt/kernels/noise.hpp>
#include <moegpt/routing/balance.hpp>
#include <moegpt/routing/load.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct NoisyTopK {
  bool bias = false;                // in both linear maps (makeMoE); the paper has none
  bool noise_floor = false;         // floor = 0.01 (Tensor2Tensor), else 0
  bool detached_threshold = false;  // thresholds psi of the expected load are constants in backward
};

// h = W x + normal * (softplus(W_noise x) + floor)
template <int K, NoisyTopK Options>
struct NoisyLogits {
  template <int D, int E, class T>
  struct For {
    using Scalar = T;
    static constexpr int dim_in = D, dim_out = E;
    static constexpr std::string_view path() { return ""; }

    Linear<D, E, T, Options.bias> gate, noise;

    static constexpr auto fields() { return Fields{Field{"gate", &For::gate}, Field{"noise", &For::noise}}; }
    struct Tape {
      Tokens<E, T> raw_std, normal;          // a = W_noise x, before softplus; random values
      Tokens<E, T> clean, probability;       // W x; selection probability. Only for an expected load
      bool noisy = false, has_load = false;  // has_load: of an expected load
      [[gnu::noinline]] void resize(const Pass& pass) {
        resize_all(pass, raw_std, normal);
        if (K < E && routing_of(pass).objective.load != 0) resize_all(pass, clean, probability);
      }
    };
    struct Scratch {
      Tokens<E, T> d_noisy, d_raw_std;
      void resize(const Pass& pass) { resize_all(pass, d_noisy, d_raw_std); }
    };

    void forward(In<D, T> x, Out<E, T> h, Tape& tape, const Pass& pass) const {
      tape.resize(pass);
      tape.noisy = pass.key.has_value();
      tape.has_load = tape.noisy && K < E && routing_of(pass).objective.load != 0;
      gate.forward(x, h, pass);
      if (tape.has_load) std::memcpy(tape.clean[0], h[0], bytes_of<T>(h.count * E));
      if (!tape.noisy) return;
      const Key key = pass.key->with(Purpose::router_noise);
      noise.forward(x, tape.raw_std, pass);
      for_each_piece(pass.exec, h.count, token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n)
          key.normals(static_cast<std::uint64_t>(pass.number_of(n) * E), tape.normal[n], E);
        kernels::add_noise(tape.normal[rows.first], tape.raw_std[rows.first], floor, h[rows.first],
                           rows.count * E);
      });
    }

    // load [E]: expected, or requested pairs.
    void measure_load(Tape& tape, const RoutingPlan<T>& plan, Buffer<T>& load, const Pass& pass) const {
      for (int e = 0; e < E; ++e) load[e] = static_cast<T>(plan.wanted[e]);
      if (!tape.has_load) return;
      for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n)
          if (!pass.is_padding(n)) Token(tape, n, pass).p.forward(tape.probability[n]);
      });
      sum_over_tokens<T>(tape.probability, {0, pass.tokens()}, pass,
                         [&](Index e, double sum) { load[e] = static_cast<T>(sum); });
    }

    // d(W x) = dh,  da = dh normal sigmoid(a).  An expected load adds to dh at thresholds, and has dc and dd:
    // d(W x) = dh + dc,  da = (dh normal + dd) sigmoid(a)
    void backward(In<D, T> x, const Tape& tape, In<E, T> dh, const RouterSignal<T>& signal, Sum<D, T> dx,
                  For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      const bool with_load = tape.has_load && signal.d_load;
      if (tape.noisy)
        for_each_piece(pass.exec, dh.count, token_piece, [&](Rows rows) {
          const Index first = rows.first, count = rows.count * E;
          if (with_load) {
            std::memcpy(scratch.d_noisy[first], dh[first], bytes_of<T>(count));
            for (Index n = first; n < first + rows.count; ++n) load_backward(tape, n, signal, scratch, pass);
          } else {
            kernels::add_noise_backward(tape.normal[first], tape.raw_std[first], dh[first],
                                        scratch.d_raw_std[first], count);
          }
        });
      gate.backward(x, with_load ? In<E, T>(scratch.d_noisy) : dh, dx, grad.gate, pass);
      if (tape.noisy) noise.backward(x, scratch.d_raw_std, dx, grad.noise, pass);
    }

   private:
    static constexpr T floor = Options.noise_floor ? T(0.01) : T(0);

    // Selection probabilities of token n, from the tape: p.
    struct Token {
      T noise_std[E], noisy[E];
      int order[K + 1];
      SelectionProbability<T> p;
      Token(const Tape& tape, Index n, const Pass& pass) : p{tape.clean[n], noisy, noise_std, E, K, order} {
        const T* a = tape.raw_std[n];
        kernels::map(E, a, noise_std, [](Vector<T> v) { return kernels::softplus<T>(v) + floor; });
        for (int e = 0; e < E; ++e)
          noisy[e] = is_allowed(e, pass) ? tape.clean[n][e] + tape.normal[n][e] * noise_std[e]
                                         : kernels::minus_infinity<T>;
        p.rank();
      }
    };
    static void load_backward(const Tape& tape, Index n, const RouterSignal<T>& signal, Scratch& scratch,
                              const Pass& pass) {
      T *dh = scratch.d_noisy[n], *da = scratch.d_raw_std[n], d_clean[E] = {}, d_noise_std[E] = {};
      if (!pass.is_padding(n))
        Token(tape, n, pass).p.backward(signal.d_load, Options.detached_threshold, d_clean, d_noise_std, dh);
      kernels::add_noise_backward(tape.normal[n], tape.raw_std[n], dh, da, E);
      kernels::map2(E, d_noise_std, tape.raw_std[n], d_noise_std,
                    [](Vector<T> d, Vector<T> a) { return d / (T(1) + kernels::exponential(-a)); });
      for (int e = 0; e < E; ++e) {
        da[e] += d_noise_std[e];
        dh[e] += d_clean[e];
      }
    }
  };
};

template <int E, int K, NoisyTopK Options = NoisyTopK{}>
struct NoisyTopKRouter : TokenChoiceRouter<E, K, Decisions<>, NoisyLogits<K, Options>> {
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
};
static_assert(lists_every_field<NoisyTopKRouter<4, 2>::For<4>>());
static_assert(Router<NoisyTopKRouter<4, 2>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
