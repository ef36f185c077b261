// A model with full attention has no next-token logits.
// expect: this model cannot generate
#include <moegpt/model/gpt.hpp>

#ifdef FAULT
constexpr auto mask = moegpt::Mask::full;
#else
constexpr auto mask = moegpt::Mask::causal;
#endif
using Model =
    moegpt::GPT<moegpt::Config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2, .mask = mask},
                moegpt::TopKRouter<4, 2>>;
void generate(const Model& model, Model::Workspace& work, Model::Cache& cache) {
  model.logits(std::vector<int>{1}, work, cache);
}
