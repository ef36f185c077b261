// One model in six shapes: a dense GPT is trained, upcycled to experts, grown, pruned, merged, and distilled
// back to a dense one. Prints the validation loss after each change of shape, and after more training.
#include <moegpt/moegpt.hpp>

#include <cstdio>
#include <cstdlib>

using namespace moegpt;

namespace {

constexpr Config config{.vocab = 64, .context = 32, .dim = 32, .layers = 2, .heads = 4, .hidden = 64};
template <int E>
using TopTwo = TopKRouter<E, 2>;  // renormalised gates
using DenseModel = GPT<config>;
template <int E>
using Mixture = GPT<config, TopTwo<E>>;
constexpr Shape shape{8, 32};
const Key seed{1};

// each(work): after the forward and backward of each step.
template <class Model, class Each>
void train(Model& model, const Corpus& corpus, Workspace<Model>& work, int steps, Each&& each) {
  Model grad;
  Adam<Model> adam{{.learning_rate = 3e-3}};
  Batch batch{shape};
  for (int step = 0; step < steps; ++step) {
    sample_batch(corpus.train, batch, seed.with(Purpose::batch, step));
    model.forward(batch, work);
    set_zero(grad);
    model.backward(batch, work, grad);
    adam.step(model, grad);
    each(step);
  }
}
template <class Model>
void report(const char* what, const Model& model, const Corpus& corpus, Workspace<Model>& work) {
  std::printf("%-48s %6.4f  %6td weights\n", what, evaluate(model, corpus.val, work), count_weights(model));
}

}  // namespace

int main(int argc, char** argv) {
  const int steps = argc > 1 ? std::atoi(argv[1]) : 200;  // of each shape
  const auto nothing = [](int) {};
  const std::string text = Dialects{}.generate(200000, seed).text;
  const Corpus corpus = split_corpus(text, Tokenizer::characters(text), 0.95);
  const Objective balance{.balance = 0.01};

  DenseModel dense;
  init(dense, seed);
  DenseModel::Workspace dense_work{shape};
  train(dense, corpus, dense_work, steps, nothing);
  report("dense", dense, corpus, dense_work);

  Mixture<4> four;
  init(four, seed);  // the routers keep these weights
  upcycle(dense, four);
  Mixture<4>::Workspace four_work{shape, {}, balance};
  report("upcycled to 4 experts", four, corpus, four_work);
  train(four, corpus, four_work, steps, nothing);
  report("  trained", four, corpus, four_work);

  Mixture<6> six;
  init(six, seed);
  Mixture<6>::Workspace six_work{shape, {}, balance};
  const AllowedExperts<TopTwo<6>> old{0, 1, 2, 3};
  grow_experts(four, six, {.allowed = old, .copies = {0, 1}});
  six_work.allowed = old;
  report("grown to 6, the new ones out of reach", six, corpus, six_work);
  six_work.allowed = nullptr;
  train(six, corpus, six_work, steps, nothing);
  report("  trained with all", six, corpus, six_work);

  ExpertUse<Mixture<6>> use;
  ExpertMask<Mixture<6>> mask;
  const PruningSchedule schedule{.from = 6, .to = 3, .first = steps / 4, .last = steps / 2};
  mask.apply(six_work);
  train(six, corpus, six_work, steps, [&](int step) {
    use.add(six, six_work);
    if (mask.prune(use, schedule(step), UseBy::load)) use.clear();
  });
  report("  trained while 3 are pruned", six, corpus, six_work);
  Mixture<3> three;
  Mixture<3>::Workspace three_work{shape, {}, balance};
  prune_experts(six, three, mask.kept());
  report("pruned to 3", three, corpus, three_work);

  ExpertUse<Mixture<3>> use_of_three;
  train(three, corpus, three_work, steps / 10 + 1, [&](int) { use_of_three.add(three, three_work); });
  Mixture<2> two;
  Mixture<2>::Workspace two_work{shape, {}, balance};
  merge_experts(three, two, cluster_experts(three, use_of_three, 2, UseBy::load), use_of_three.load);
  report("merged to 2", two, corpus, two_work);
  train(two, corpus, two_work, steps, nothing);
  report("  trained", two, corpus, two_work);

  DenseModel student, grad;
  init(student, seed);
  Adam<DenseModel> adam{{.learning_rate = 3e-3}};
  Batch batch{shape};
  for (int step = 0; step < steps; ++step) {
    sample_batch(corpus.train, batch, seed.with(Purpose::batch, step));
    const auto soft = soft_targets(two, batch, two_work, {.temperature = 2, .weight = 0.5});
    student.forward(batch, dense_work, {}, dense_work.objective, soft);
    set_zero(grad);
    student.backward(batch, dense_work, grad);
    adam.step(student, grad);
  }
  report("a new dense model, distilled", student, corpus, dense_work);
}
