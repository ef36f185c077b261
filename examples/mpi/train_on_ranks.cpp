// Trains a GPT with experts on several processes, which share the batch and the experts:
//   mpirun -n 2 train_on_ranks
#include <moegpt/dist/mpi.hpp>
#include <moegpt/moegpt.hpp>

#include <cstdio>

using namespace moegpt;

constexpr Config tiny{.vocab = 256, .context = 64, .dim = 64, .layers = 2, .heads = 4, .hidden = 128};
using Model = GPT<tiny, ExpertParallel<TopKRouter<8, 2>>>;

int train(MpiCommunicator& world) {
  const Key seed{1337};
  const Dialects dialects;
  const Corpus corpus = split_corpus(dialects.generate(200000, seed).text, Tokenizer::bytes());

  Distribution ranks(world, world.size());  // each rank has 8 / size experts of a layer
  Model model, grad;
  init(model, seed);  // the same weights on every rank
  ranks.keep_own_experts(model);
  ranks.keep_own_experts(grad);
  Adam<Model> adam({.learning_rate = 3e-3}, grad);
  const Index sequences = 8 / world.size();  // of this rank
  Model::Workspace work{{sequences, 64}, {}, {.balance = 0.01}};
  work.ranks = &ranks.of_batch();
  Accumulator<Model> accumulator;

  Batch whole{{8, 64}};  // every rank draws it, and takes its part
  for (int step = 0; step <= 100; ++step) {
    sample_batch(corpus.train, whole, seed.with(Purpose::batch, step));
    const Batch part = part_of(whole, world.rank(), world.size());
    set_zero(grad);
    const Loss loss = accumulator.step(model, {&part, 1}, work, grad);  // of all ranks
    ranks.reduce(grad);
    adam.step(model, grad, work.exec, clip_scale(ranks.global_norm(grad), 1));
    if (world.rank() == 0 && step % 50 == 0) std::printf("step %3d  loss %.3f\n", step, loss.cross_entropy);
  }
  return 0;
}

int main(int argc, char** argv) {
  return run_with_mpi(argc, argv, train, [](int rank, const char* message) {
    std::fprintf(stderr, "rank %d: %s\n", rank, message);
  });
}
