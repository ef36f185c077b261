// A user-defined router: the gate of a selected expert is the sigmoid of its logit. It is checked by
// gradcheck and check_router, then used in a model.
#include <moegpt/moegpt.hpp>
#include <moegpt/testing/check_router.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include <cstdio>

using namespace moegpt;

struct SigmoidGates {
  template <class T>
  static void forward(const T* z, const T*, T* gate, int K) {
    for (int j = 0; j < K; ++j) gate[j] = 1 / (1 + std::exp(-z[j]));
  }
  template <class T>
  static void backward(const T*, const T* gate, const T* d_gate, T* dz, T*, int K) {
    for (int j = 0; j < K; ++j) dz[j] += d_gate[j] * gate[j] * (1 - gate[j]);
  }
};
template <int E, int K>
using MyRouter = TopKRouterWith<E, K, SigmoidGates>;

static_assert(Router<MyRouter<8, 2>>);  // the compiler checks the interface ...

int main() {
  const GradcheckReport report = gradcheck<MyRouter<5, 2>>();    // ... gradcheck the derivatives ...
  const RouterReport promises = check_router<MyRouter<5, 2>>();  // ... and check_router the plans
  std::printf("gradcheck: %s, worst relative error %.1e at %s %s\n", report ? "passed" : "failed",
              report.worst, report.where.c_str(), report.message.c_str());
  std::printf("check_router: %s %s\n", promises ? "passed" : "failed", promises.message.c_str());

  using Model = GPT<Config{.vocab = 256, .context = 32, .dim = 32, .layers = 2, .heads = 4}, MyRouter<8, 2>>;
  const Corpus corpus = split_corpus(Dialects{}.generate(100000, Key{1}).text, Tokenizer::bytes());
  Model model, grad;
  init(model, Key{1});
  Adam<Model> adam{{.learning_rate = 3e-3}};
  Model::Workspace work{{.batch = 8, .length = 32}, Exec{}, {.balance = 0.01}};
  Batch batch{work.shape};
  for (int step = 0; step <= 60; ++step) {
    sample_batch(corpus.train, batch, Key{2}.with(Purpose::batch, step));
    const Loss loss = model.forward(batch, work);
    set_zero(grad);
    model.backward(batch, work, grad);
    adam.step(model, grad);
    if (step % 20 == 0)
      std::printf("step %2d  loss %.3f  experts %s\n", step, loss.cross_entropy,
                  bars(expert_load<Model>(work)).c_str());
  }
  return report && promises ? 0 : 1;
}
