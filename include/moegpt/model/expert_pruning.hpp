#pragma once
// Pruning of experts by use, at once or in steps while training, and clusters of experts to merge:
//   ExpertUse<Model> use;                                // counts of forwards
//   ExpertMask<Model> mask;                              // the experts that are left, of each layer its own
//   use.add(model, work);                                // in each step
//   if (mask.prune(use, schedule(step), UseBy::load)) use.clear();
//   mask.apply(work);                                    // pruned experts get no tokens and no gradient
//   prune_experts(model, smaller, mask.kept());          // at the end (model/reshape.hpp)
#include <moegpt/model/copy_weights.hpp>
#include <moegpt/model/mixtures.hpp>
#include <moegpt/routing/allowed_experts.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class UseBy {
  load,        // number of pairs that the expert processed
  importance,  // sum of their gates
};

// Use of each expert, summed over forwards. Does not allocate after construction.
template <class Model>
struct ExpertUse {
  static constexpr int layers = Model::config.layers, experts = Model::RouterRecipe::experts;
  using Values = std::vector<std::vector<double>>;  // [layers][experts]; of a dense layer []
  Values load, importance;

  ExpertUse() : load(layers), importance(layers) {
    for (std::size_t l = 0; l < load.size(); ++l)
      if (Model::config.is_moe(static_cast<int>(l)))
        load[l].resize(std::size_t{experts}), importance[l].resize(std::size_t{experts});
  }
  const Values& by(UseBy what) const { return what == UseBy::load ? load : importance; }

  // Adds the last forward of `work`. std::invalid_argument for an inference workspace, or before a forward.
  void add(const Model& model, const Workspace<Model>& work) {
    check_mixtures(work, "ExpertUse");
    for_each_mixture(model, work, [&](int layer, const auto&, const auto& tape) {
      const auto l = static_cast<std::size_t>(layer);
      for (std::size_t e = 0; e < std::size_t{experts}; ++e) {
        const Rows pairs = tape.plan.layout().rows(static_cast<int>(e));
        load[l][e] += static_cast<double>(pairs.count);
        for (Index s = pairs.first; s < pairs.first + pairs.count; ++s)
          importance[l][e] += static_cast<double>(tape.plan.gate[s]);
      }
    });
  }
  void clear() {
    for (Values* values : {&load, &importance})
      for (auto& layer : *values) std::fill(layer.begin(), layer.end(), 0.0);
  }
};

// Number of experts at a step: `from` before `first`, `to` from `last` on, and in between a straight line, in
// whole experts. Throws std::invalid_argument for values out of order.
struct PruningSchedule {
  int from, to;
  Index first, last;
  int operator()(Index step) const {
    check(from >= to && to >= 1 && last >= first, "PruningSchedule: ", from, " experts before step ", first,
          " and ", to, " from step ", last, " on: neither experts nor steps may be in another order");
    if (step < first) return from;
    if (step >= last) return to;
    return from - static_cast<int>((step - first) * (from - to) / (last - first));
  }
};

// The experts that a model may select, of each layer its own; all at first. It must outlive its use by a
// workspace. Does not allocate after construction.
template <class Model>
class ExpertMask {
 public:
  static constexpr int layers = Model::config.layers, experts = Model::RouterRecipe::experts;

  ExpertMask() : allowed_(Index{layers} * experts) { allowed_.fill(true); }
  ExpertMask(const ExpertMask&) = delete;  // a workspace may point to it

  bool allows(int layer, int expert) const { return allowed_[Index{layer} * experts + expert]; }
  // Of a layer; all layers have the same number.
  int count() const { return count_; }

  // Forbids the least used of the experts that are left, until `remaining` are, in each layer; of equally
  // used ones the last. Returns whether something changed. A number above count() changes nothing.
  // std::invalid_argument for fewer experts than the router selects.
  bool prune(const ExpertUse<Model>& use, int remaining, UseBy what) {
    constexpr int fewest = fewest_allowed<typename Model::RouterRecipe>;
    check(remaining >= fewest, "ExpertMask: ", remaining, " experts were asked for, but the router selects ",
          fewest, " for a token: keep at least so many");
    const int before = std::exchange(count_, std::min(count_, remaining));
    for (int l = 0; l < layers; ++l)
      for (int left = before; Model::config.is_moe(l) && left > count_; --left) {
        const auto& values = use.by(what)[static_cast<std::size_t>(l)];
        int least = -1;
        for (int e = 0; e < experts; ++e)
          if (allows(l, e) &&
              (least < 0 || values[static_cast<std::size_t>(e)] <= values[static_cast<std::size_t>(least)]))
            least = e;
        allowed_[Index{l} * experts + least] = false;
      }
    return count_ < before;
  }
  // Passes of the workspace select among the experts that are left; later changes of the mask hold, too.
  void apply(Workspace<Model>& work) const {
    work.allowed = allowed_.data();
    work.allowed_stride = experts;
  }
  // [layers] the experts that are left, ascending; of a dense layer all. For prune_experts.
  std::vector<std::vector<int>> kept() const {
    std::vector<std::vector<int>> lists(layers);
    for (int l = 0; l < layers; ++l)
      for (int e = 0; e < experts; ++e)
        if (allows(l, e)) lists[static_cast<std::size_t>(l)].push_back(e);
    return lists;
  }

 private:
  Buffer<bool> allowed_;  // [layers, experts]
  int count_ = experts;
};

// [layers][experts] a cluster of each expert, for merge_experts: in each layer the `clusters` most used
// experts have one each, and another expert joins the one whose router weights are the most similar (Li et
// al. 2023), by the cosine of the rows of `router.gate.weight`. std::invalid_argument for a router without
// such weights and for other numbers of clusters than 1 .. experts.
template <class Model>
std::vector<std::vector<int>> cluster_experts(const Model& model, const ExpertUse<Model>& use, int clusters,
                                              UseBy what) {
  constexpr int E = Model::RouterRecipe::experts;
  check(clusters >= 1 && clusters <= E, "cluster_experts: ", clusters, " clusters of ", E,
        " experts were asked for");
  const detail::WeightsByPath weights = detail::by_path(detail::list_weights(model));
  std::vector<std::vector<int>> lists(std::size_t{Model::config.layers});
  for (std::size_t l = 0; l < lists.size(); ++l) {
    if (use.load[l].empty()) continue;
    const std::string path = "blocks." + std::to_string(l) + ".moe.router.gate.weight";
    const auto found = weights.find(path);
    check(found != weights.end() && found->second.rows == E, "cluster_experts: the model has no weight ",
          path, " with a row for each expert: give the clusters yourself");
    std::vector<std::vector<double>> row(std::size_t{E});
    std::vector<std::size_t> order;
    for (std::size_t e = 0; e < row.size(); ++e) {
      row[e].resize(static_cast<std::size_t>(found->second.cols));
      found->second.read(static_cast<Index>(e), row[e].data());
      order.push_back(e);
    }
    const std::vector<double>& values = use.by(what)[l];
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
    order.resize(static_cast<std::size_t>(clusters));
    std::sort(order.begin(), order.end());
    const auto dot = [&](std::size_t a, std::size_t b) {
      double sum = 0;
      for (std::size_t k = 0; k < row[a].size(); ++k) sum += row[a][k] * row[b][k];
      return sum;
    };
    for (std::size_t e = 0; e < row.size(); ++e) {
      std::size_t best = 0;
      double most = -2;
      for (std::size_t c = 0; c < order.size(); ++c) {
        const double norms = std::sqrt(dot(e, e) * dot(order[c], order[c]));
        const double cosine = order[c] == e ? 2 : norms > 0 ? dot(e, order[c]) / norms : 0;
        if (cosine > most) most = cosine, best = c;
      }
      lists[l].push_back(static_cast<int>(best));
    }
  }
  return lists;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
