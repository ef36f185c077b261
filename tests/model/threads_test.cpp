// Invariant 5: the number of threads changes no bit. Large enough that work is cut everywhere: more than
// token_piece tokens, more than expert_rows pairs for one expert, more numbers in a weight than Adam and the
// norm take at once.
#include <moegpt/train/adam.hpp>
#include <moegpt/train/clip.hpp>
#include <moegpt/train/corpus.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 1031,
                        .context = 24,
                        .dim = 32,
                        .layers = 2,
                        .heads = 4,
                        .kv_heads = 2,
                        .hidden = 40,
                        .head_bias = true};
using Model = GPT<config, NoisyTopKRouter<3, 2>>;
constexpr Shape shape{16, 24};

struct Run {
  std::unique_ptr<Model> model = std::make_unique<Model>();
  std::vector<double> losses, norms;
  Index most_of_one_expert = 0;
};

Run train(int threads) {
  Run run;
  init(*run.model, Key{7}, Init::makemoe);
  const std::vector<int> text = random_ids(3000, config.vocab, 8);
  const Exec exec{.threads = threads};
  Workspace<Model> work(shape, exec, {.dropout = 0.1, .balance = 0.01, .z = 0.001});
  Model grad;
  Adam<Model> adam({.learning_rate = 3e-3});
  Batch batch{shape};
  for (std::uint64_t step = 0; step < 50; ++step) {
    sample_batch(text, batch, Key{9}.with(Purpose::batch, step));
    run.losses.push_back(
        run.model->forward(batch, work, Key{10}.with(Purpose::step, step)).total(work.objective));
    set_zero(grad);
    run.model->backward(batch, work, grad);
    run.norms.push_back(global_norm(grad, exec));
    adam.step(*run.model, grad, exec, clip_scale(run.norms.back(), 0.5));
    for (int e = 0; e < 3; ++e)
      run.most_of_one_expert =
          std::max(run.most_of_one_expert, work.tape.trunk.blocks.second[0].mixture.plan.load(e));
  }
  return run;
}

}  // namespace

TEST_CASE("fifty steps of training have the same bits with one, two, three and eight threads") {
  const Run one = train(1);
  REQUIRE(one.most_of_one_expert > expert_rows(2 * shape.tokens()));
  REQUIRE(one.losses.back() < one.losses.front());
  REQUIRE(one.norms.front() > 0.5);  // clipping happened
  for (const int threads : {2, 3, 8}) {
    INFO(threads << " threads");
    const Run run = train(threads);
    REQUIRE(same_bits(run.losses.data(), one.losses.data(), 50));
    REQUIRE(same_bits(run.norms.data(), one.norms.data(), 50));
    REQUIRE(first_difference(*run.model, *one.model) == "");
  }
}
