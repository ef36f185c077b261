#pragma once
// Hash routing (Roller et al. 2021): a fixed hash of the token id selects K experts, each with gate 1/K. No
// weights; x is not read. A baseline for learned routers. The hash is the same in every layer.
#include <moegpt/core/random.hpp>
#include <moegpt/routing/router.hpp>

#include <numeric>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <int E, int K = 1>
struct HashRouter {
  static_assert(K >= 1 && K <= E,
                "HashRouter: K must lie in 1 .. E: a token cannot choose more experts than exist");
  static_assert(E <= 1 << 16, "HashRouter: at most 65536 experts");
  static constexpr int experts = E, active = K;
  static constexpr bool causal = true;
  static std::string text() { return "HashRouter<" + std::to_string(E) + ", " + std::to_string(K) + ">"; }

  template <int D, class T = float>
  struct For {
    using Scalar = T;
    static constexpr int dim = D;

    static constexpr auto fields() { return Fields{}; }
    struct Tape {
      static constexpr bool has_choices = true;
      Tokens<E, T> score;   // 1/K for selected experts, else 0
      Tokens<1, T> lse;     // 0, because there are no logits
      Buffer<int> chosen;   // [tokens, K]
      Buffer<T> gate;       // [tokens, K]
      Buffer<int> allowed;  // [E] scratch of forward: the allowed experts
      Buffer<int> deck;     // [E] scratch of forward: a permutation of them
      void resize(const Pass& pass) {
        resize_all(pass, score, lse);
        chosen.resize(pass.tokens() * K);
        gate.resize(pass.tokens() * K);
        allowed.resize(E);
        deck.resize(E);
      }
    };
    using Scratch = Nothing;

    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      pass.check_fits(x.count, pass.tokens());
      const int* ids = routing_of(pass).ids;
      check(
          ids,
          "HashRouter chooses experts by token id, but the routing context has no ids: give it the [tokens] "
          "ids");
      tape.resize(pass);
      int count = 0, *deck = tape.deck.data();
      for (int e = 0; e < E; ++e)
        if (is_allowed(e, pass)) tape.allowed[count++] = e;
      for (Index n = 0; n < pass.tokens(); ++n) {
        const int taken = pass.is_padding(n) ? 0 : std::min(K, count);
        int* chosen = tape.chosen.data() + n * K;
        std::copy_n(tape.allowed.data(), count, deck);
        std::fill_n(tape.score[n], E, T(0));
        Rng hash{Key{mix64(static_cast<std::uint64_t>(ids[n]))}};
        for (int j = 0; j < K; ++j) {
          if (j < taken)
            std::swap(deck[j], deck[j + static_cast<Index>(hash.below(static_cast<unsigned>(count - j)))]);
          chosen[j] = j < taken ? deck[j] : no_expert;
          tape.gate[n * K + j] = j < taken ? T(1) / static_cast<T>(taken) : T(0);
          if (j < taken) tape.score[n][chosen[j]] = T(1) / static_cast<T>(taken);
        }
        *tape.lse[n] = 0;
      }
      plan.resize(pass.tokens(), K, E);
      plan.assign(tape.chosen.data(), tape.gate.data(), pass);
    }
    // Selections and gates are constants.
    void backward(In<D, T>, const RoutingPlan<T>&, const Tape&, const RouterSignal<T>&, Sum<D, T>, For&,
                  Scratch&, const Pass&) const {}
  };
};
static_assert(Router<HashRouter<4, 2>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
