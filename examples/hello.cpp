// Defines a GPT with experts, trains it on a synthetic text, and generates text.
#include <moegpt/moegpt.hpp>

#include <cstdio>

using namespace moegpt;

constexpr Config tiny{.vocab = 256, .context = 64, .dim = 64, .layers = 2, .heads = 4, .hidden = 128};
using Model = GPT<tiny, TopKRouter<8, 2>>;  // 8 experts in each layer, 2 for each token

int main() {
  const Key seed{1337};
  const Dialects dialects;  // a text of invented words whose entropy is known
  const Corpus corpus = split_corpus(dialects.generate(500000, seed).text, Tokenizer::bytes());

  Model model, grad;  // a gradient is a model
  init(model, seed);
  Adam<Model> adam{{.learning_rate = 3e-3}};
  Model::Workspace work{{.batch = 8, .length = 64}, Exec{.threads = 2}, {.balance = 0.01}};

  Batch batch{work.shape};
  for (int step = 0; step <= 300; ++step) {
    sample_batch(corpus.train, batch, seed.with(Purpose::batch, step));
    const Loss loss = model.forward(batch, work);
    set_zero(grad);
    model.backward(batch, work, grad);
    adam.step(model, grad, work.exec);
    if (step % 50 == 0)
      std::printf("step %3d  loss %.3f  experts %s\n", step, loss.cross_entropy,
                  bars(expert_load<Model>(work)).c_str());
  }
  std::printf("no model can do better than %.3f\n", dialects.entropy_rate());
  std::puts(
      generate(model, corpus.tokenizer, "\n", {.tokens = 200, .sampling = {.temperature = 0.8}}).c_str());
}
