#pragma once
// Text for progress lines of a training loop. The library itself never prints.
#include <moegpt/model/gpt.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Pairs that each expert received in the last forward, summed over the layers that are mixtures. Empty for a
// dense model. std::invalid_argument for an inference workspace, or before a forward.
template <class Model>
std::vector<Index> expert_load(const Workspace<Model>& work) {
  check_mixtures(work, "expert_load");
  std::vector<Index> load;
  for (int i = 0; i < Model::config.layers; ++i)
    trunk_of(work.tape).blocks.at_layer(i, [&](const auto& block) {
      if constexpr (HasPlan<decltype(block.mixture)>) {
        const auto& plan = block.mixture.plan;
        load.resize(static_cast<std::size_t>(plan.experts));
        for (int e = 0; e < plan.experts; ++e) load[static_cast<std::size_t>(e)] += plan.load(e);
      }
    });
  return load;
}

// A bar for each count, its height in eighths of the largest count: "▆▇▅█▆▆▇▅".
inline std::string bars(std::span<const Index> counts) {
  static constexpr const char* levels[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  Index most = 1;
  for (Index c : counts) {
    check(c >= 0 && c <= PTRDIFF_MAX / 16, "bars: a count is ", c, ", expected 0 .. ", PTRDIFF_MAX / 16);
    most = c > most ? c : most;
  }
  std::string text;
  for (Index c : counts) text += levels[(c * 8 + most - 1) / most];
  return text;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
