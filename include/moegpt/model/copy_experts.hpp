#pragma once
// Copies a model to one with another number of experts: each expert of the destination, with its part of the
// router, is a weighted sum of experts of the source. model/reshape.hpp has the usual cases.
#include <moegpt/layers/pass.hpp>
#include <moegpt/model/copy_weights.hpp>

#include <algorithm>
#include <charconv>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The experts of a model as weighted sums of experts of another.
struct ExpertMap {
  struct Part {
    int expert;  // of the source
    double weight = 1;
  };
  using Sum = std::vector<Part>;         // empty: the expert is left as it is
  std::vector<std::vector<Sum>> layers;  // [layers][experts], or [1][experts] for all layers

  const std::vector<Sum>& of(int layer) const {
    check(layers.size() == 1 || (layer >= 0 && layer < std::ssize(layers)),
          "copy_experts: there are lists of ", layers.size(), " layers, none for layer ", layer,
          ": give one for each layer, or one for all");
    return layers.size() == 1 ? layers[0] : layers[static_cast<std::size_t>(layer)];
  }
};

namespace detail {

// The parts of a path, which must outlive them: blocks.<layer>.<before>experts.<expert>.<after>, or something
// of a router. Parsing does not allocate.
struct ExpertPath {
  int layer = -1, expert = -1;  // -1: none
  bool router = false;
  std::string_view before, after;  // "blocks.3.moe.", "up.weight"
};
[[gnu::noinline]] inline ExpertPath parse_expert_path(std::string_view path) {
  ExpertPath found;
  const auto number_at = [&](std::size_t at) {
    const std::size_t end = std::min(path.find('.', at), path.size());
    int number = -1;
    const auto read = std::from_chars(path.data() + std::min(at, end), path.data() + end, number);
    return read.ec == std::errc{} && read.ptr == path.data() + end && number >= 0 ? number : -1;
  };
  for (std::size_t at = 0, end; at < path.size() && !found.router && found.expert < 0; at = end + 1) {
    end = std::min(path.find('.', at), path.size());
    const std::string_view name = path.substr(at, end - at);
    if (name == "blocks") found.layer = number_at(end + 1);
    found.router = name == "router";
    if (name != "experts") continue;
    found.expert = number_at(end + 1);
    found.before = path.substr(0, at);
    const std::size_t after = path.find('.', end + 1);
    if (after != std::string::npos) found.after = path.substr(after + 1);
  }
  return found;
}
inline std::string path_of_expert(const ExpertPath& path, int expert) {
  std::string text(path.before);
  text += "experts.";
  text += std::to_string(expert);
  if (!path.after.empty()) text += '.';
  text += path.after;
  return text;
}

// Number of experts of each layer (-1: outside of blocks).
template <class Weights>
std::map<int, int> count_experts(const Weights& weights) {
  std::map<int, int> experts;
  for (const auto& weight : weights) {
    const std::string* path;
    if constexpr (requires { weight.path; })
      path = &weight.path;
    else
      path = &weight.first;
    const ExpertPath parsed = parse_expert_path(*path);
    if (parsed.expert >= 0) experts[parsed.layer] = std::max(experts[parsed.layer], parsed.expert + 1);
  }
  return experts;
}

inline void add_row(const CopiedWeight& source, Index row, double factor, Buffer<double>& part, double* sum) {
  source.read(row, part.data());
  for (Index k = 0; k < source.cols; ++k) sum[k] += factor * part[k];
}

// to = sum of weight * source of the parts.
[[gnu::noinline]] inline void write_sum(const CopiedWeight& to,
                                        const std::vector<const CopiedWeight*>& sources,
                                        const ExpertMap::Sum& sum) {
  Buffer<double> row(to.cols), part(to.cols);
  for (Index i = 0; i < to.rows && !to.empty; ++i) {
    row.fill(0);
    for (std::size_t p = 0; p < sum.size(); ++p) add_row(*sources[p], i, sum[p].weight, part, row.data());
    to.write(i, row.data());
  }
}

// The axis of a router's weight that counts experts, and its elements for each; axis -1: none.
struct ExpertAxis {
  int axis = -1, each = 1;
};
[[gnu::noinline]] inline ExpertAxis axis_of_experts(const CopiedWeight& from, const CopiedWeight& to,
                                                    int experts_from, int experts_to) {
  ExpertAxis found;
  bool fits = from.shape.size() == to.shape.size();
  for (std::size_t a = 0; fits && a < to.shape.size(); ++a)
    if (from.shape[a] != to.shape[a]) {
      fits = found.axis < 0 && from.shape[a] % experts_from == 0 &&
             to.shape[a] == from.shape[a] / experts_from * experts_to;
      found = {static_cast<int>(a), from.shape[a] / experts_from};
    }
  check(fits, "copy_experts: ", from.path, " has shape ", text_of_shape(from.shape),
        " and in the destination ", text_of_shape(to.shape),
        ": one extent may differ, by the number of experts, ", experts_from, " and ", experts_to);
  return found;
}
// A router's weight: rows, or columns, of experts.
[[gnu::noinline]] inline void write_router(const CopiedWeight& from, const CopiedWeight& to,
                                           const std::vector<ExpertMap::Sum>& sums, ExpertAxis experts) {
  const bool by_row = experts.axis == 0 && to.shape.size() > 1;
  Buffer<double> row(to.cols), source(from.cols), part(from.cols);
  for (Index i = 0; i < to.rows && !to.empty; ++i) {
    to.read(i, row.data());
    if (by_row) {
      const ExpertMap::Sum& sum = sums[static_cast<std::size_t>(i / experts.each)];
      if (!sum.empty()) row.fill(0);
      for (const auto& [expert, weight] : sum)
        add_row(from, expert * experts.each + i % experts.each, weight, part, row.data());
    } else {
      from.read(i, source.data());
      for (Index k = 0; k < to.cols; ++k) {
        const ExpertMap::Sum& sum = sums[static_cast<std::size_t>(k / experts.each)];
        if (!sum.empty()) row[k] = 0;
        for (const auto& [expert, weight] : sum)
          row[k] += weight * source[expert * experts.each + k % experts.each];
      }
    }
    to.write(i, row.data());
  }
}

[[gnu::noinline]] inline CopyReport copy_by_map(const WeightsByPath& from,
                                                const std::vector<CopiedWeight>& to, const ExpertMap& map) {
  CopyReport report;
  std::set<std::string> read;
  std::vector<std::function<void()>> writes;  // nothing changes before all are checked
  const auto experts_from = count_experts(from), experts_to = count_experts(to);
  for (const auto& [layer, E] : experts_to) {
    const auto found = experts_from.find(layer);
    check(found != experts_from.end(), "copy_experts: layer ", layer, " of the source has no experts");
    check(found->second != E, "copy_experts: both models have ", E, " experts in layer ", layer,
          ": use copy_weights");
    check(std::ssize(map.of(layer)) == E, "copy_experts: the map has ", map.of(layer).size(),
          " experts for layer ", layer, ", expected ", E, ", those of the destination");
    for (const auto& sum : map.of(layer))
      for (const auto& part : sum)
        check(part.expert >= 0 && part.expert < found->second, "copy_experts: layer ", layer,
              " of the source has no expert ", part.expert, ", expected 0 .. ", found->second - 1);
  }
  for (const CopiedWeight& weight : to) {
    const ExpertPath path = parse_expert_path(weight.path);
    if (path.expert >= 0) {
      const ExpertMap::Sum& sum = map.of(path.layer)[static_cast<std::size_t>(path.expert)];
      std::vector<const CopiedWeight*> sources;
      for (const auto& part : sum) {
        sources.push_back(&source_for(weight, path_of_expert(path, part.expert), from));
        check_shape(weight, *sources.back());
        read.insert(sources.back()->path);
      }
      if (sum.empty()) {
        report.left.push_back(weight.path);
        continue;
      }
      report.copied.push_back({weight.path, sources[0]->path});
      writes.push_back([&weight, sources, &sum] { write_sum(weight, sources, sum); });
      continue;
    }
    const CopiedWeight& source = source_for(weight, weight.path, from);
    ExpertAxis axis;
    if (path.router && experts_to.contains(path.layer))
      axis = axis_of_experts(source, weight, experts_from.at(path.layer), experts_to.at(path.layer));
    else
      check_shape(weight, source);
    writes.push_back([&weight, &source, &map, layer = path.layer, axis] {
      if (axis.axis < 0)
        write_sum(weight, {&source}, {{0}});
      else
        write_router(source, weight, map.of(layer), axis);
    });
    report.copied.push_back({weight.path, source.path});
    read.insert(source.path);
  }
  for (const auto& write : writes) write();
  list_unused(from, read, report);
  return report;
}

// Constants of a trained model.
template <class From, class To>
void copy_options(const From& from, To& to) {
  if constexpr (requires {
                  { (from.options) } -> std::convertible_to<ModelOptions>;
                  { (to.options) } -> std::convertible_to<ModelOptions>;
                })
    to.options = from.options;
}

}  // namespace detail

// Copies the weights of `from` to `to`, which has another number of experts: an expert of `to`, with its part
// of the router's weights, is the sum of weight * expert of `from` that the map says. Other weights are
// copied. Throws std::invalid_argument for maps of other sizes, and as copy_weights; `to` is then unchanged.
template <class From, class To>
CopyReport copy_experts(const From& from, To& to, const ExpertMap& map) {
  CopyReport report =
      detail::copy_by_map(detail::by_path(detail::list_weights(from)), detail::list_weights(to), map);
  detail::copy_options(from, to);
  return report;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
