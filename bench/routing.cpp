// Routing rules: time of a training step over that with TopKRouter<E, 2>.
// Interleaved; two layers of width 128, 512 tokens; experts of width 512 (E 8) and 128 (E 64). Rules with
// more work per token than two experts (shared experts, all experts, Soft MoE) are slower accordingly.
#include "support/table.hpp"
#include "support/training.hpp"

using namespace bench;

namespace {

template <int E, class Recipe>
using Model =
    GPT<Config{.vocab = 65, .context = 64, .dim = 128, .layers = 2, .heads = 4, .hidden = E == 8 ? 512 : 128},
        Recipe>;

template <int E, class Recipe>
void row(const std::string& rule, Objective objective = {.balance = 0.01}, double capacity = 0) {
  add(name(rule, E), 15, [=](benchmark::State& state) {
    const Workload plain = workload<Model<E, TopKRouter<E, 2>>>("plain", {8, 64}, 1, {.balance = 0.01});
    const Workload with_rule =
        workload<Model<E, Recipe>>(rule, {8, 64}, 1, objective, {.capacity_factor = capacity});
    Work reference(plain.step, 0.1), work(with_rule.step, 0.1);
    std::vector<double> over;
    double before = reference.slice();
    for (auto _ : state) {
      const double time = work.slice(), after = reference.slice();
      over.push_back(time / ((before + after) / 2));
      before = after;
      state.SetIterationTime(time);
    }
    state.counters["over top-k"] = median(over);
  });
}

template <int E>
void rules() {
  constexpr int G = E / 4;
  row<E, TopKRouter<E, 2>>("itself");
  row<E, TopKRouter<E, 2, TopK{.gates = Gates::probability}>>("probability");
  row<E, TopKRouter<E, 2, TopK{.selection_bias = true}>>("selection_bias");
  row<E, TopKRouterWith<E, 2, PNormGates<2>>>("p_norm");
  row<E, SigmoidRouter<E, 2>>("sigmoid");
  row<E, SigmoidRouter<E, 2, Sigmoid{.groups = 4, .groups_kept = 2}>>("sigmoid_groups");
  row<E, TopPRouter<E, 2, std::ratio<1, 2>>>("top_p");
  row<E, GShardRouter<E>>("gshard");
  row<E, NoisyTopKRouter<E, 2>>("noisy");
  row<E, NoisyTopKRouter<E, 2>>("noisy_with_load", {.importance = 0.1, .load = 0.1});
  row<E, CosineRouter<E, 2>>("cosine");
  row<E, CosineRouter<E, 2, 32>>("cosine_narrow");
  row<E, InputJitter<TopKRouter<E, 2>>>("jitter");
  row<E, HashRouter<E, 2>>("hash");
  row<E, Masked<TopKRouter<E, 2>>>("masked");
  row<E, Dropping<TopKRouter<E, 2>, Drop::token_order, Group::sequence>>("capacity", {.balance = 0.01}, 1.25);
  row<E, AllowNonCausal<Dropping<TopKRouter<E, 2>, Drop::probability>>>("capacity_probability",
                                                                        {.balance = 0.01}, 1.25);
  row<E, HierarchicalRouter<TopKRouter<G, 1>, TopKRouter<4, 2>>>("hierarchical");
  row<E, AllowNonCausal<ExpertChoiceRouter<E, 2>>>("expert_choice");
  row<E, SharedExperts<TopKRouter<E, 2>, 1, Shared::gated>>("shared_gated");
  if constexpr (E == 8) {
    row<E, AllExperts<E>>("all_experts");
    row<E, AllowNonCausal<SoftMoE<E, 16>>>("soft_moe");
  }
}

}  // namespace

int main(int argc, char** argv) {
  rules<8>();
  rules<64>();
  return bench::run(argc, argv);
}
