#pragma once
// Input jitter (Switch, Fedus et al. 2021): with a key the router reads x~ = x u, u uniform in 1 +- epsilon
// for each token and feature; experts read x. Paths of weights are those of the inner router.
#include <moegpt/core/simd.hpp>
#include <moegpt/routing/gates.hpp>
#include <moegpt/routing/router_around.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Epsilon: a std::ratio in (0, 1). InputJitter<TopKRouter<8, 1>> is Switch.
template <Router Recipe, class Epsilon = std::ratio<1, 100>>
struct InputJitter : RouterAround<Recipe> {
  static_assert(Epsilon::num > 0 && Epsilon::num < Epsilon::den,
                "InputJitter: epsilon must be more than 0 and less than 1");
  static std::string text()
    requires requires { Recipe::text(); }
  {
    return "InputJitter<" + Recipe::text() + ", " + text_of<Epsilon>() + ">";
  }

  template <int D, class T = float>
  struct For : RouterAround<Recipe>::template For<D, T> {
    using Base = typename RouterAround<Recipe>::template For<D, T>;
    struct Tape : Base::Tape {
      Tokens<D, T> jittered;  // x~
      Key noise{};
      bool applied = false;
      void resize(const Pass& pass) {
        Base::Tape::resize(pass);
        jittered.resize(pass);
      }
    };
    struct Scratch : Base::Scratch {
      Tokens<D, T> d_jittered;
      void resize(const Pass& pass) {
        Base::Scratch::resize(pass);
        d_jittered.resize(pass);
      }
    };

    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      pass.check_fits(x.count, pass.tokens());
      tape.resize(pass);
      tape.applied = pass.key.has_value();
      if (!tape.applied) return Base::forward(x, plan, tape, pass);
      tape.noise = pass.key->with(Purpose::router_jitter);
      for_each_jitter(tape, pass, [&](Index n, int i, T u) { tape.jittered[n][i] = x[n][i] * u; });
      Base::forward(tape.jittered, plan, tape, pass);
    }
    // dx += dx~ u
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      if (!tape.applied) return Base::backward(x, plan, tape, signal, dx, grad, scratch, pass);
      if (dx.empty()) return Base::backward(tape.jittered, plan, tape, signal, dx, grad, scratch, pass);
      scratch.d_jittered.resize(pass);
      scratch.d_jittered.memory().fill(0);
      Base::backward(tape.jittered, plan, tape, signal, Sum(scratch.d_jittered), grad, scratch, pass);
      for_each_jitter(tape, pass, [&](Index n, int i, T u) { dx[n][i] += scratch.d_jittered[n][i] * u; });
    }

   private:
    // f(token, feature, u)
    template <class F>
    static void for_each_jitter(const Tape& tape, const Pass& pass, F&& f) {
      constexpr T epsilon = T(Epsilon::num) / T(Epsilon::den);
      for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
        constexpr int most = 256;
        T draw[most];
        for (Index n = rows.first; n < rows.first + rows.count; ++n)
          for (int first = 0; first < D; first += most) {
            const int count = std::min(most, D - first);
            tape.noise.uniforms(static_cast<std::uint64_t>(pass.number_of(n) * D + first), draw, count);
            for (int i = 0; i < count; ++i) f(n, first + i, 1 + epsilon * (2 * draw[i] - 1));
          }
      });
    }
  };
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
