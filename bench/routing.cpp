// What does a routing rule cost? A whole training step with each rule, in turn with TopKRouter<E, 2>, which it is
// divided by. Two layers of width 128, 512 tokens; experts of width 512 (E 8) and 128 (E 64).
#include "support/table.hpp"
#include "support/training.hpp"

using namespace bench;

namespace {

template <int E, class Recipe>
using Model = GPT<Config{.vocab = 65, .context = 64, .dim = 128, .layers = 2, .heads = 4, .hidden = E == 8 ? 512 : 128},
                  Recipe>;

template <int E, class Recipe>
void row(const std::string& rule, Objective objective = {.balance = 0.01}) {
  add(name(rule, E), 15, [=](benchmark::State& state) {
    const Workload plain = workload<Model<E, TopKRouter<E, 2>>>("plain", {8, 64}, 1, {.balance = 0.01});
    const Workload with_rule = workload<Model<E, Recipe>>(rule, {8, 64}, 1, objective);
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
  row<E, TopKRouter<E, 2>>("top-k again");
  row<E, TopKRouter<E, 2, TopK{.gates = Gates::probability}>>("probability gates");
  row<E, NoisyTopKRouter<E, 2>>("noisy top-k");
  row<E, AllowNonCausal<ExpertChoiceRouter<E, 2>>>("expert choice");
}

}  // namespace

int main(int argc, char** argv) {
  rules<8>();
  rules<64>();
  return bench::run(argc, argv);
}
