#pragma once
// Copies weights by path between parameter trees of different types: models of another config, router or
// scalar, and optimizers (a tree of two moments).
//   copy_weights(gpt, classifier);                               all paths that both have
//   copy_weights(gpt, other, [](const std::string& path) { ... });   the source path of each weight of
//   `other`
// model/reshape.hpp changes the number of experts.
#include <moegpt/core/check.hpp>
#include <moegpt/core/fields.hpp>
#include <moegpt/core/panels.hpp>

#include <functional>
#include <map>
#include <set>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// What a copy did, in the order of fields() of the destination.
struct CopyReport {
  struct Copied {
    std::string path, source;  // of the destination and of the source; of several: the first
  };
  std::vector<Copied> copied;
  std::vector<std::string> left;    // weights of the destination that did not change
  std::vector<std::string> unused;  // weights of the source that were not read
};

namespace detail {

// A weight of a tree whose type is erased. Rows are read and written as doubles, which hold every element of
// every storage exactly.
struct CopiedWeight {
  std::string path;
  std::vector<int> shape;
  bool empty;
  Index rows, cols;
  std::function<void(Index, double*)> read;
  std::function<void(Index, const double*)> write;  // of a destination
};
using WeightsByPath = std::map<std::string, CopiedWeight>;

[[gnu::noinline]] inline std::string text_of_shape(const std::vector<int>& shape) {
  std::string text = "[";
  for (const int extent : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(extent);
  }
  text += "]";
  return text;
}

template <class Tree>
std::vector<CopiedWeight> list_weights(Tree& tree) {
  std::vector<CopiedWeight> list;
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& w) {
        using S = typename std::remove_reference_t<decltype(w)>::Scalar;
        CopiedWeight& weight = list.emplace_back(
            CopiedWeight{path, {w.shape.begin(), w.shape.end()}, w.empty(), w.rows, w.cols, {}, {}});
        weight.read = [w = WeightRef<const S>(w)](Index row, double* to) {
          Buffer<Widened<S>> numbers(w.cols);
          read_row(w.view(), row, numbers.data());
          std::copy(numbers.begin(), numbers.end(), to);
        };
        if constexpr (!std::is_const_v<Tree>)
          weight.write = [w](Index row, const double* from) {
            Buffer<Widened<S>> numbers(w.cols);
            for (Index k = 0; k < w.cols; ++k) numbers[k] = static_cast<Widened<S>>(from[k]);
            write_row(w.view(), row, numbers.data());
          };
      },
      tree);
  return list;
}
inline WeightsByPath by_path(std::vector<CopiedWeight> list) {
  WeightsByPath weights;
  for (CopiedWeight& weight : list) weights.emplace(weight.path, std::move(weight));
  return weights;
}

// The source of a weight, of its shape. std::invalid_argument if there is none.
[[gnu::noinline]] inline const CopiedWeight& source_for(const CopiedWeight& to, const std::string& path,
                                                        const WeightsByPath& from) {
  const auto found = from.find(path);
  check(found != from.end(), "copy: ", to.path, " is copied from ", path,
        ", but the source has no weight of this path: name another, or leave the weight with an empty path");
  check(found->second.empty == to.empty, "copy: only ",
        to.empty ? "the source holds " : "the destination holds ", to.empty ? path : to.path,
        ": allocate or release it in both");
  return found->second;
}
[[gnu::noinline]] inline void check_shape(const CopiedWeight& to, const CopiedWeight& source) {
  check(source.shape == to.shape, "copy: ", source.path, " has shape ", text_of_shape(source.shape),
        ", expected ", text_of_shape(to.shape), " for ", to.path);
}

inline void list_unused(const WeightsByPath& from, const std::set<std::string>& read, CopyReport& report) {
  for (const auto& [path, weight] : from)
    if (!read.contains(path)) report.unused.push_back(path);
}

[[gnu::noinline]] inline CopyReport copy_by_rule(const WeightsByPath& from,
                                                 const std::vector<CopiedWeight>& to,
                                                 const std::function<std::string(const std::string&)>& rule) {
  CopyReport report;
  std::vector<std::pair<const CopiedWeight*, const CopiedWeight*>> pairs;
  std::set<std::string> read;
  for (const CopiedWeight& weight : to) {
    const std::string path = rule(weight.path);
    if (path.empty()) {
      report.left.push_back(weight.path);
      continue;
    }
    const CopiedWeight& source = source_for(weight, path, from);
    check_shape(weight, source);
    pairs.emplace_back(&source, &weight);
    report.copied.push_back({weight.path, path});
    read.insert(path);
  }
  Buffer<double> row;
  for (const auto& [source, weight] : pairs) {  // nothing has changed before all are checked
    row.resize(weight->cols);
    for (Index i = 0; i < weight->rows && !weight->empty; ++i) {
      source->read(i, row.data());
      weight->write(i, row.data());
    }
  }
  list_unused(from, read, report);
  return report;
}

}  // namespace detail

// Copies to each weight of `to` the weight of `from` whose path is rule(path of the weight), a std::string;
// an empty one leaves the weight as it is. Elements are converted to the storage of `to`. Options of a model
// are not weights and are not copied. Throws std::invalid_argument for a path that `from` lacks, for another
// shape, and for a weight that is empty in one tree only; `to` is then unchanged.
template <class From, class To, class Rule>
CopyReport copy_weights(const From& from, To& to, Rule&& rule) {
  return detail::copy_by_rule(detail::by_path(detail::list_weights(from)), detail::list_weights(to), rule);
}
// The same with every path that both have.
template <class From, class To>
CopyReport copy_weights(const From& from, To& to) {
  const detail::WeightsByPath weights = detail::by_path(detail::list_weights(from));
  return detail::copy_by_rule(weights, detail::list_weights(to), [&](const std::string& path) {
    return weights.contains(path) ? path : std::string();
  });
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
