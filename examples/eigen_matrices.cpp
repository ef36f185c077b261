// Uses an expert, a router and a MoE layer on existing Eigen matrices, forward and backward, without copies:
// column-major [D, tokens] and row-major [tokens, D] both store token by token.
#include <moegpt/moegpt.hpp>

#include <cstdio>

using namespace moegpt;

int main() {
  constexpr int D = 16, Dff = 32, tokens = 10;
  const Pass pass{.shape = {1, tokens}};
  Eigen::MatrixXf x = Eigen::MatrixXf::Random(D, tokens), y(D, tokens), dy = x, dx(D, tokens);

  // One expert on four of the tokens: x and y are those rows, the tape has a slot for each.
  Expert<D, Dff> expert, d_expert;
  expert.up.weight.eigen().setRandom();
  expert.down.weight.eigen().setRandom();
  Expert<D, Dff>::Tape tape;
  Expert<D, Dff>::Scratch scratch;
  tape.resize(4);
  scratch.resize(4);
  const moegpt::Rows some{.first = 3, .count = 4}, slot_count{.first = 0, .count = 4};
  const auto x4 = as_tokens<D>(x).rows(some), y4 = as_tokens<D>(y).rows(some);
  const auto dy4 = as_tokens<D>(dy).rows(some), dx4 = as_tokens<D>(dx).rows(some);
  expert.forward(x4, y4, tape, scratch, slot_count);
  expert.backward(x4, tape, dy4, nullptr, dx4, nullptr, scratch,
                  slot_count);                              // null: no gate and no gradient of it
  for (Index part = 0; part < expert.weight_parts; ++part)  // parts may go to different threads
    expert.backward_weights(part, x4, tape, dy4, d_expert, scratch, slot_count);
  std::printf("expert:  |y| %.3f  |dx| %.3f  |d up| %.3f\n", y.middleCols(3, 4).norm(),
              dx.middleCols(3, 4).norm(), d_expert.up.weight.eigen().norm());

  // A router: the tokens of each expert, with their gates.
  using Router = TopKRouter<4, 2>::For<D>;
  Router router;
  router.logits.weight.eigen().setRandom();
  RoutingPlan<float> plan;
  Router::Tape routes;
  router.forward(as_tokens<D>(x), plan, routes, pass);
  for (int e = 0; e < plan.experts; ++e) {
    std::printf("router:  expert %d takes", e);
    for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s)
      std::printf("  %td (%.2f)", plan.token[s], plan.gate[s]);
    std::puts("");
  }

  // Both together, in double and with one row per token.
  using Mixture = MoELayer<TopKRouter<4, 2>, Expert<D, Dff, Activation::gelu, double>>;
  using Rows = Eigen::Matrix<double, Eigen::Dynamic, D, Eigen::RowMajor>;
  Rows in = Rows::Random(tokens, D), out(tokens, D), d_out = in, d_in(tokens, D);
  Mixture mixture, d_mixture;
  for_each_weight([](auto& w) { w.eigen().setRandom(); }, mixture);
  Mixture::Tape mixture_tape;
  Mixture::Scratch mixture_scratch;
  mixture.forward(as_tokens<D>(in), as_tokens<D>(out), mixture_tape, mixture_scratch, pass);
  mixture.backward(as_tokens<D>(in), mixture_tape, as_tokens<D>(d_out), as_tokens<D>(d_in), d_mixture,
                   mixture_scratch, pass);
  std::printf("mixture: |y| %.3f  |dx| %.3f  |d gate| %.3f\n", out.norm(), d_in.norm(),
              d_mixture.router.logits.weight.eigen().norm());
}
