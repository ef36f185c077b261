// Narrower storage is for inference: a step of training would be lost in its rounding.
// expect: weights in panels, Stored<...>, are for inference
#include <moegpt/model/gpt.hpp>

#ifdef FAULT
using Number = moegpt::Stored<float, moegpt::BF16>;
#else
using Number = float;
#endif
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 4, .layers = 1, .heads = 1};
using Model = moegpt::GPT<config, moegpt::Dense, Number>;
void step(const Model& model, const moegpt::Batch& batch, Model::Workspace& work, Model& grad) {
  model.backward(batch, work, grad);
}
