#pragma once
// One step of AdamW over a tree of weights as large as a model, in turn with an in-place update of four streams of
// the same size: 28 bytes for each weight, read and written.
#include <moegpt/layers/expert.hpp>
#include <moegpt/train/adam.hpp>

#include "in_turn.hpp"

namespace bench {

template <int D, int Dff, int N>
struct ManyExperts {
  using Scalar = float;
  std::array<Expert<D, Dff>, N> experts;
  static constexpr auto fields() { return Fields{Field{"experts", &ManyExperts::experts}}; }
};
using NineMillion = ManyExperts<128, 512, 68>;     // in 272 tensors, as in a small mixture
using SixtyMillion = ManyExperts<768, 3072, 13>;   // in 52 tensors

struct AdamFigures {
  double weights, seconds, bandwidth, of_bandwidth;   // of_bandwidth: median of ratios in turn
};

template <class Tree>
AdamFigures adam_in_turn(int threads, int rounds) {
  const Exec exec{.threads = threads};
  Tree model, grad;
  for_each_weight([](auto& w) { for (auto& v : w) v = 0.01f; }, grad);
  Adam<Tree> adam;
  const auto weights = static_cast<double>(count_weights(model));
  Streams streams(count_weights(model));
  InTurn turn;
  const Clock clock = clock_for(threads);
  const int update = turn.add(streams.update_bytes(), [&] { streams.update(exec); }, 0.02, clock);
  const int step = turn.add(28 * weights, [&] { adam.step(model, grad, exec); }, 0.02, clock);
  turn.run(rounds);
  return {weights, 28 * weights / turn.rate(step), turn.rate(update), turn.ratio(step, update)};
}

}  // namespace bench
