#pragma once
// What all mixtures of a model did with their tokens, summed over as many forwards as one likes:
//     RoutingStatistics<Model> statistics{4};             // four classes of tokens, dialects for instance
//     model.forward(batch, work);
//     statistics.add(model, work, dialect_of_token);
//     statistics.layers[0].routing.max_violation();
#include <moegpt/model/mixtures.hpp>
#include <moegpt/moe/metrics.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <class Model>
struct RoutingStatistics {
  struct Layer {
    int layer;  // its number in the model
    RoutingCounts routing;
    ClassCounts classes;  // empty without labels
  };
  int classes = 0;
  std::vector<Layer> layers{};  // that are mixtures

  // Adds the last forward of the workspace. label [tokens]: the class of each token, or below zero; none:
  // experts are counted, classes are not. std::invalid_argument for an inference workspace, before a forward,
  // or for labels that do not fit; nothing is counted then.
  void add(const Model& model, const Workspace<Model>& work, std::span<const int> label = {}) {
    check_mixtures(work, "RoutingStatistics");
    std::size_t i = 0;
    for_each_mixture(model, work, [&](int number, const auto&, const auto& tape) {
      if (i == layers.size()) layers.push_back({number, {}, {.classes = classes}});
      Layer& layer = layers[i++];
      using T = typename Model::Scalar;
      MatrixView<const T> score{}, lse{};
      if constexpr (HasScores<decltype(tape)>) score = tape.router.score, lse = tape.router.lse;
      if (!label.empty()) layer.classes.add(tape.plan, label);  // first: it may throw
      layer.routing.add(tape.plan, score, lse, work.last.pass);
    });
  }
  // Back to nothing counted; the memory stays.
  void clear() {
    for (Layer& layer : layers) layer.routing.clear(), layer.classes.clear();
  }

  // MaxVio of the layer that is balanced worst. Sums over layers would hide it.
  double worst_violation() const {
    double worst = 0;
    for (const Layer& layer : layers) worst = std::max(worst, layer.routing.max_violation());
    return worst;
  }
  int dead() const {
    int dead = 0;
    for (const Layer& layer : layers) dead += layer.routing.dead();
    return dead;
  }
};

// The experts of every (token, choice) of the last forward, for each mixture: what saturation() compares at
// two checkpoints, after forwards of the same batch.
template <class Model>
std::vector<std::vector<int>> routes(const Model& model, const Workspace<Model>& work) {
  check_mixtures(work, "routes");
  std::vector<std::vector<int>> all;
  Buffer<int> expert;
  for_each_mixture(model, work, [&](int, const auto&, const auto& tape) {
    experts_of_pairs(tape.plan, expert);
    all.emplace_back(expert.begin(), expert.end());
  });
  return all;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
