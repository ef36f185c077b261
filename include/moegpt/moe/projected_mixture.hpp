#pragma once
// MoE layer of linear experts from D to F, then an optional activation and one linear map back to D:
//   y = W_down act(sum_j g_j (W_j x + b_j)) + b_down
#include <moegpt/layers/linear_expert.hpp>
#include <moegpt/moe/moe_layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <Router Recipe, ExpertNetwork ExpertType, Activation... A>
struct ProjectedMixture {
  static_assert(sizeof...(A) <= 1,
                "ProjectedMixture: at most one activation stands before the shared projection");
  using Mixture = MoELayer<Recipe, ExpertType>;
  using Scalar = typename ExpertType::Scalar;
  using T = Scalar;
  static constexpr int D = Mixture::dim_in, F = Mixture::dim_out, dim_in = D, dim_out = D;
  static constexpr bool causal = Mixture::causal;
  static constexpr std::string_view name = Mixture::name;

  Mixture mixture;
  Linear<F, D, typename NumbersOf<ExpertType>::type> down;

  static constexpr auto fields() {
    return Fields{Field{"", &ProjectedMixture::mixture},
                  Field{"down", &ProjectedMixture::down, Start::residual}};
  }
  struct Tape : Mixture::Tape {
    Tokens<F, T> mixed;  // output of the mixture
    void resize(const Pass& pass) {
      Mixture::Tape::resize(pass);
      mixed.resize(pass);
    }
  };
  struct Scratch {
    typename Mixture::Scratch mixture;
    Tokens<F, T> act, d_mixed;  // act(mixed), recomputed in backward
    [[gnu::noinline]] void resize(const Pass& pass) { resize_all(pass, mixture, act, d_mixed); }
  };

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    tape.resize(pass);
    scratch.resize(pass);
    mixture.forward(x, tape.mixed, tape, scratch.mixture, pass);
    down.forward(activated(tape, scratch, pass), y, pass);
  }

  // d_act = W_down^T dy,  d_mixed = d_act act'(mixed)
  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, ProjectedMixture& grad,
                Scratch& scratch, const Pass& pass) const {
    scratch.resize(pass);
    down.backward(activated(tape, scratch, pass), dy, scratch.d_mixed, grad.down, pass);
    for_each_piece(pass.exec, x.count, token_piece, [&]([[maybe_unused]] Rows rows) {
      (kernels::activate_backward(A, tape.mixed[rows.first], scratch.d_mixed[rows.first],
                                  scratch.d_mixed[rows.first], rows.count * F),
       ...);
    });
    mixture.backward(x, tape, scratch.d_mixed, dx, grad.mixture, scratch.mixture, pass);
  }

  auto routed_experts() const { return mixture.routed_experts(); }

 private:
  static In<F, T> activated(const Tape& tape, [[maybe_unused]] Scratch& scratch,
                            [[maybe_unused]] const Pass& pass) {
    if constexpr (sizeof...(A) == 0) {
      return tape.mixed;
    } else {
      for_each_piece(pass.exec, tape.mixed.count(), token_piece, [&](Rows rows) {
        (kernels::activate(A, tape.mixed[rows.first], scratch.act[rows.first], rows.count * F), ...);
      });
      return scratch.act;
    }
  }
};
static_assert(lists_every_field<ProjectedMixture<TopKRouter<4, 2>, LinearExpert<4, 3>>>());
static_assert(Layer<ProjectedMixture<TopKRouter<4, 2>, LinearExpert<4, 3>, Activation::relu>>);
static_assert(WrapsMixture<ProjectedMixture<TopKRouter<4, 2>, LinearExpert<4, 3>>,
                           MoELayer<TopKRouter<4, 2>, LinearExpert<4, 3>>>);

// In a model: GPT<config, WithSharedProjection<TopKRouter<8, 2>, 128, Activation::relu>>. Linear experts of
// width 128 replace those of the Config.
template <Router Recipe, int F, Activation... A>
struct WithSharedProjection {
  static_assert(F >= 1, "WithSharedProjection: the width of the experts must be at least 1");
  static constexpr int experts = Recipe::experts, active = Recipe::active;
  static constexpr bool causal = Recipe::causal;
  static constexpr bool allows_non_causal = moegpt::allows_non_causal<Recipe>;
  static std::string text()
    requires requires { Recipe::text(); }
  {
    std::string text = "WithSharedProjection<" + Recipe::text() + ", " + std::to_string(F);
    (((text += ", Activation::") += to_text(A)), ...);
    return text + ">";
  }
  template <class Self, ExpertNetwork X>
  using Mixture =
      ProjectedMixture<AllowedAs<Self, Recipe>, LinearExpert<X::dim, F, typename NumbersOf<X>::type>, A...>;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
