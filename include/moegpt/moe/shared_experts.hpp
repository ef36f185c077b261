#pragma once
// Shared experts (DeepSeekMoE, Dai et al. 2024): an FFN that processes every token, beside an MoE layer.
// `Count` shared experts are one network of Count times the width.
//   y = a mixture(x) + b shared(x)
#include <moegpt/kernels/elementwise.hpp>
#include <moegpt/moe/moe_layer.hpp>

#include <limits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Shared {
  plain,     // a = b = 1 (DeepSeek)
  gated,     // a = 1, b = sigmoid(<w, x>) (Qwen2-MoE)
  weighted,  // a = K / (K + 1), b = 1 / (K + 1), with K routed experts per token (megablocks)
};

template <class Routed, ExpertNetwork ExpertType, int K, Shared How = Shared::plain>
struct SharedMixture {
  using Scalar = typename ExpertType::Scalar;
  using T = Scalar;
  static constexpr int D = ExpertType::dim, dim_in = D, dim_out = D;
  static constexpr bool causal = Routed::causal;
  static constexpr std::string_view name = Routed::name;

  Routed routed;
  ExpertType shared;
  [[no_unique_address]] Linear<D, How == Shared::gated ? 1 : 0, T, false> shared_gate;

  static constexpr auto fields() {
    return Fields{Field{"", &SharedMixture::routed}, Field{"shared", &SharedMixture::shared},
                  Field{"shared_gate", &SharedMixture::shared_gate}};
  }
  struct Tape : Routed::Tape {  // plan, scores and losses of the routed experts
    typename ExpertsView<ExpertType>::Tape shared;
    Buffer<T> gate;  // [tokens] b
    [[gnu::noinline]] void resize(const Pass& pass) {
      Routed::Tape::resize(pass);
      shared.resize(pass.tokens());
      gate.resize(pass.tokens());
    }
  };
  struct Scratch {
    typename Routed::Scratch routed;
    typename ExpertsView<ExpertType>::Scratch shared;
    Tokens<D, T> output, d_input;  // of the shared experts
    Tokens<D, T> d_routed;         // a dy, only for a != 1
    Tokens<1, T> d_gate;
    [[gnu::noinline]] void resize(const Pass& pass) {
      resize_all(pass, routed, output, d_input, d_gate);
      shared.resize(1, pass.tokens());
      if constexpr (How == Shared::weighted) d_routed.resize(pass);
    }
  };

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    tape.resize(pass);
    scratch.resize(pass);
    const Index all[2] = {0, x.count};
    routed.forward(x, y, tape, scratch.routed, pass);
    if constexpr (How == Shared::gated) shared_gate.forward(x, Out<1, T>{tape.gate.data(), x.count}, pass);
    expert().forward(x, {all}, scratch.output, tape.shared, scratch.shared, pass,
                     expert_dropout(applied_expert_dropout(pass), pass, 1));
    for_each_piece(pass.exec, x.count, token_piece, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n) {
        tape.gate[n] = How == Shared::gated ? sigmoid(tape.gate[n]) : shared_factor;
        if constexpr (How == Shared::weighted) kernels::scale(D, routed_factor, y[n], y[n]);
        kernels::axpy(D, tape.gate[n], scratch.output[n], y[n]);
      }
    });
  }

  // d_mixture = a dy,  d_shared = b dy,  db = <dy, shared(x)>;  gated: d_logit = db b (1 - b)
  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, SharedMixture& grad,
                Scratch& scratch, const Pass& pass) const {
    scratch.resize(pass);
    const Index all[2] = {0, x.count};
    const Out<D, T> d_input = dx.empty() ? Out<D, T>{} : scratch.d_input.view();
    expert().backward(x, {all}, tape.shared, dy, tape.gate.data(), d_input,
                      How == Shared::gated ? scratch.d_gate[0] : nullptr, scratch.shared, pass);
    expert().backward_weights(x, {all}, tape.shared, &grad.shared, scratch.shared, pass);
    if constexpr (How != Shared::plain)
      for_each_piece(pass.exec, x.count, token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n) {
          if constexpr (How == Shared::gated) *scratch.d_gate[n] *= tape.gate[n] * (1 - tape.gate[n]);
          if constexpr (How == Shared::weighted) kernels::scale(D, routed_factor, dy[n], scratch.d_routed[n]);
        }
      });
    const In<D, T> d_routed = How == Shared::weighted ? In<D, T>(scratch.d_routed) : dy;
    routed.backward(x, tape, d_routed, dx, grad.routed, scratch.routed, pass);
    if (!dx.empty()) kernels::add<T>(pass.exec, dx, scratch.d_input, dx);
    if constexpr (How == Shared::gated)
      shared_gate.backward(x, scratch.d_gate, Sum(dx), grad.shared_gate, pass);
  }

  auto routed_experts() const
    requires HasExperts<Routed>
  {
    return routed.routed_experts();
  }

 private:
  static constexpr T shared_factor = How == Shared::weighted ? T(1) / (K + 1) : T(1);
  static constexpr T routed_factor = How == Shared::weighted ? T(K) / (K + 1) : T(1);
  static T sigmoid(T z) {  // 0 if exp(-z) would overflow
    return z < -std::log(std::numeric_limits<T>::max()) ? T(0) : 1 / (1 + std::exp(-z));
  }
  ExpertsView<ExpertType> expert() const { return {&shared, 1, -1}; }
};

// The expert type with Times the hidden width. Specialise it for user-defined experts.
template <ExpertNetwork X, int Times>
struct Wider {
  static_assert(Times < 1,
                "SharedExperts: several shared experts are one of so many times the width: "
                "specialise Wider<X, Times> for your expert (moe/shared_experts.hpp), or share one");
};
template <ExpertNetwork X>
struct Wider<X, 1> {
  using type = X;
};
template <int D, int Dff, Activation A, class T, bool HasBias, int Times>
  requires(Times > 1)
struct Wider<Expert<D, Dff, A, T, HasBias>, Times> {
  using type = Expert<D, Times * Dff, A, T, HasBias>;
};
template <int D, int Dff, Activation A, class T, bool HasBias, int Times>
  requires(Times > 1)
struct Wider<GatedExpert<D, Dff, A, T, HasBias>, Times> {
  using type = GatedExpert<D, Times * Dff, A, T, HasBias>;
};

// In a model: GPT<config, SharedExperts<TopKRouter<64, 6>, 2>>, with two shared experts.
template <class Recipe, int Count = 1, Shared How = Shared::plain>
struct SharedExperts {
  static_assert(Count >= 1, "SharedExperts: at least one expert is shared; without, use the router alone");
  static constexpr int experts = Recipe::experts, active = Recipe::active;
  static constexpr bool causal = Recipe::causal;
  static constexpr bool allows_non_causal = moegpt::allows_non_causal<Recipe>;
  static std::string text()
    requires requires { Recipe::text(); }
  {
    const char* how[] = {"", ", Shared::gated", ", Shared::weighted"};
    return "SharedExperts<" + Recipe::text() + ", " + std::to_string(Count) + how[static_cast<int>(How)] +
           ">";
  }
  template <class Self, ExpertNetwork X>
  using Mixture =
      SharedMixture<MixtureOf<AllowedAs<Self, Recipe>, X>, typename Wider<X, Count>::type, active, How>;
};
static_assert(
    Layer<SharedMixture<MoELayer<TopKRouter<4, 2>, Expert<4, 8>>, Expert<4, 16>, 2, Shared::gated>>);
static_assert(WrapsMixture<SharedMixture<MoELayer<TopKRouter<4, 2>, Expert<4, 8>>, Expert<4, 16>, 2>,
                           MoELayer<TopKRouter<4, 2>, Expert<4, 8>>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
