#pragma once
// Freezing releases weights of the gradient. An empty gradient is not computed; clipping and Adam skip it, so
// weights, moments and step counts are unchanged. Gradients of inputs are still computed.
//   freeze(grad, "token_embedding");
//   freeze(grad, "*.router");
//   freeze_all_but(grad, {"*.experts.3", "head"});
#include <moegpt/core/check.hpp>
#include <moegpt/core/fields.hpp>

#include <initializer_list>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Whether a pattern matches the path or its first components: "blocks.0.moe" matches blocks.0.moe.router and
// every weight in it. * matches any characters.
constexpr bool path_matches(std::string_view pattern, std::string_view path) {
  if (pattern.empty()) return path.empty() || path.front() == '.';
  if (pattern.front() == '*')
    return path_matches(pattern.substr(1), path) || (!path.empty() && path_matches(pattern, path.substr(1)));
  return !path.empty() && path.front() == pattern.front() && path_matches(pattern.substr(1), path.substr(1));
}

namespace detail {

// f(weight, whether a pattern matches it) for all weights. Throws std::invalid_argument for a pattern without
// match.
template <class Tree, class F>
void for_each_named_by(std::span<const std::string_view> patterns, Tree& grad, F&& f) {
  for (const std::string_view pattern : patterns) {
    bool found = false;
    for_each_named_weight(
        [&](const std::string& path, Kind, auto&) { found = found || path_matches(pattern, path); }, grad);
    check(found, "freeze: no weight is named by \"", pattern,
          "\"; a pattern is a path as in fields(), a beginning of "
          "one that ends before a dot, or has * for any characters");
  }
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& w) {
        bool named = false;
        for (const std::string_view pattern : patterns) named = named || path_matches(pattern, path);
        f(w, named);
      },
      grad);
}

}  // namespace detail

// Freezes the weights that match. A buffer, such as a selection bias, has no gradient and cannot be frozen
// here.
template <class Tree>
void freeze(Tree& grad, std::initializer_list<std::string_view> patterns) {
  detail::for_each_named_by(patterns, grad, [](auto& w, bool named) {
    if (named) w.release();
  });
}
template <class Tree>
void freeze(Tree& grad, std::string_view pattern) {
  freeze(grad, {pattern});
}

// Freezes all weights that match no pattern and unfreezes the others.
template <class Tree>
void freeze_all_but(Tree& grad, std::initializer_list<std::string_view> patterns) {
  detail::for_each_named_by(patterns, grad, [](auto& w, bool named) { named ? w.allocate() : w.release(); });
}

// Freezes all weights but adapters (layers/adapted_linear.hpp) and what a further pattern names, such as
// "*.experts.3". Throws std::invalid_argument if the model has no adapters.
template <class Tree>
void freeze_all_but_adapters(Tree& grad, std::string_view further = "*.adapter") {
  freeze_all_but(grad, {"*.adapter", further});
}

// Freezes experts by index, in every layer.
template <class Tree>
void freeze_experts(Tree& grad, std::initializer_list<int> numbers) {
  std::vector<std::string> names;
  for (const int e : numbers) {
    check(e >= 0, "freeze_experts: there is no expert ", e);
    names.push_back("*experts." + std::to_string(e));
  }
  const std::vector<std::string_view> patterns(names.begin(), names.end());
  detail::for_each_named_by(patterns, grad, [](auto& w, bool named) {
    if (named) w.release();
  });
}

// Allocates gradients again, as zeros.
template <class Tree>
void unfreeze(Tree& grad, std::initializer_list<std::string_view> patterns) {
  detail::for_each_named_by(patterns, grad, [](auto& w, bool named) {
    if (named) w.allocate();
  });
}
template <class Tree>
void unfreeze(Tree& grad, std::string_view pattern = "*") {
  unfreeze(grad, {pattern});
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
