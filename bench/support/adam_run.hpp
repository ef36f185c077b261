#pragma once
// AdamW steps of a parameter tree of a model's size, interleaved with an in-place update of four streams of
// the same size: 28 bytes read and written per weight.
#include <moegpt/layers/expert.hpp>
#include <moegpt/train/adam.hpp>

#include "interleaved.hpp"

namespace bench {

template <int D, int Dff, int N>
struct ManyExperts {
  using Scalar = float;
  std::array<Expert<D, Dff>, N> experts;
  static constexpr auto fields() { return Fields{Field{"experts", &ManyExperts::experts}}; }
};
using NineMillion = ManyExperts<128, 512, 68>;    // in 272 tensors, as in a small mixture
using SixtyMillion = ManyExperts<768, 3072, 13>;  // in 52 tensors

struct AdamFigures {
  double weights, seconds, bandwidth, of_bandwidth;  // of_bandwidth: median of interleaved ratios
};

template <class Tree>
AdamFigures adam_interleaved(int threads, int rounds) {
  const Exec exec{.threads = threads};
  Tree model, grad;
  for_each_weight(
      [](auto& w) {
        for (auto& v : w) v = 0.01f;
      },
      grad);
  Adam<Tree> adam;
  const auto weights = static_cast<double>(count_weights(model));
  Streams streams(count_weights(model));
  Alternation runs;
  const Clock clock = clock_for(threads);
  const int update = runs.add(streams.update_bytes(), [&] { streams.update(exec); }, 0.02, clock);
  const int step = runs.add(28 * weights, [&] { adam.step(model, grad, exec); }, 0.02, clock);
  runs.run(rounds);
  return {weights, 28 * weights / runs.rate(step), runs.rate(update), runs.ratio(step, update)};
}

}  // namespace bench
