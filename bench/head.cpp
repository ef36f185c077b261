// LM head (logits, cross-entropy, backward): per cent of the FMA peak.
// 50,257 vocabulary entries, 1,024 tokens, tied.
#include <moegpt/model/head.hpp>

#include "support/table.hpp"

using namespace bench;

namespace {

template <int D>
struct LastLayer {
  static constexpr int V = 50257;
  using Layer = Head<D, V, float, true>;
  Layer head, grad;
  typename Layer::Table embedding, d_embedding;
  typename Layer::Tape tape;
  typename Layer::Scratch scratch;
  Tokens<D, float> x, dx;
  std::vector<int> targets;
  Pass pass;

  explicit LastLayer(int threads) : pass{.shape = {4, 256}, .exec = Exec{.threads = threads}} {
    Rng rng(1);
    for (auto& w : embedding) w = static_cast<float>(0.07 * (rng.uniform() - 0.5));
    x.resize(pass.tokens());
    dx.resize(pass.tokens());
    for (auto& value : x.memory()) value = static_cast<float>(rng.normal());
    for (Index n = 0; n < pass.tokens(); ++n) targets.push_back(static_cast<int>(rng.below(V)));
  }
  void forward() {
    pass.exec.region([&](const Exec& exec) { head.loss(x, embedding, targets.data(), tape, with(exec)); });
  }
  void backward() {
    pass.exec.region([&](const Exec& exec) {
      head.backward(x, embedding, tape, dx, grad, d_embedding, scratch, with(exec));
    });
  }
  Pass with(const Exec& exec) const {
    Pass result = pass;
    result.exec = exec;
    return result;
  }
  double flops() const { return 2.0 * D * V * static_cast<double>(pass.tokens()); }
};

template <int D>
void rows() {
  for (const int threads : {1, 2}) {
    add(name("forward", D, threads), 5, [=](benchmark::State& state) {
      LastLayer<D> layer(threads);
      measure(state, {.flops = layer.flops(), .tokens = 1024, .threads = threads}, [&] { layer.forward(); });
    });
    add(name("backward", D, threads), 5, [=](benchmark::State& state) {
      LastLayer<D> layer(threads);
      layer.forward();
      measure(state, {.flops = 2 * layer.flops(), .tokens = 1024, .threads = threads},
              [&] { layer.backward(); });
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  rows<512>();
  rows<768>();
  return bench::run(argc, argv);
}
