#pragma once
// fields(): the one list of a layer's weights. Optimizer, files, gradient check and counting are each one walk
// over one or several trees of the same type; a weight's path (blocks.3.moe.experts.5.up.weight) is its name
// everywhere.
#include <moegpt/core/matrix.hpp>

#include <cmath>
#include <string>
#include <tuple>

namespace moegpt::inline MOEGPT_BUILD {

enum class Kind {
  trainable,
  buffer,   // saved with the model, but has no gradient, moment, clip or decay
  sparse,   // trainable, but reached only by some tokens: the experts (see Weight::touched)
};

template <class Owner, class Member>
struct Field {
  std::string_view name;
  Member Owner::*member;
  Kind kind = Kind::trainable;
};
template <class Owner, class Member>
Field(std::string_view, Member Owner::*) -> Field<Owner, Member>;
template <class Owner, class Member>
Field(std::string_view, Member Owner::*, Kind) -> Field<Owner, Member>;

template <class X>
inline constexpr bool is_weight = false;
template <class T, int... Extents>
inline constexpr bool is_weight<Weight<T, Extents...>> = true;

template <class X>
concept HasFields = requires { std::remove_cvref_t<X>::fields(); };

namespace walk {

// A path is only built when someone asks for names: a step of the optimizer must not allocate.
struct NoPath {
  NoPath operator/(std::string_view) const { return {}; }
  NoPath operator/(int) const { return {}; }
};
struct Path {
  std::string text;
  Path operator/(std::string_view name) const {
    if (name.empty()) return *this;
    return {text.empty() ? std::string(name) : text + "." + std::string(name)};
  }
  Path operator/(int index) const { return *this / std::string_view(std::to_string(index)); }
};

constexpr Kind inherit(Kind outer, Kind inner) { return inner == Kind::trainable ? outer : inner; }

template <class F, class P, class Tree, class... Trees>
void visit(F& f, const P& path, Kind kind, Tree& tree, Trees&... trees) {
  if constexpr (is_weight<std::remove_const_t<Tree>>) {
    if constexpr (std::remove_const_t<Tree>::extent > 0) f(path, kind, tree, trees...);
  } else if constexpr (HasFields<Tree>) {
    std::apply([&](auto... field) {
      auto one = [&](auto fd) {
        visit(f, path / fd.name, inherit(kind, fd.kind), tree.*fd.member, trees.*fd.member...);
      };
      (one(field), ...);
    }, std::remove_const_t<Tree>::fields());
  } else {   // a list: std::array, std::vector or model/Interleaved
    for (int i = 0; i < static_cast<int>(tree.size()); ++i) {
      if constexpr (requires { tree.at_layer(0, [](auto&...) {}, trees...); })
        tree.at_layer(i, [&](auto&... element) { visit(f, path / i, kind, element...); }, trees...);
      else
        visit(f, path / i, kind, tree[i], trees[i]...);
    }
  }
}

}  // namespace walk

// f(weight, weights...) for every weight of `tree`, in the order of fields(), with the same weight of the others.
template <class F, class Tree, class... Trees>
void for_each_weight(F&& f, Tree& tree, Trees&... trees) {
  auto drop_name = [&](const auto&, Kind, auto&... weight) { f(weight...); };
  walk::visit(drop_name, walk::NoPath{}, Kind::trainable, tree, trees...);
}

// f(kind, weight, weights...)
template <class F, class Tree, class... Trees>
void for_each_weight_of_kind(F&& f, Tree& tree, Trees&... trees) {
  auto drop_name = [&](const auto&, Kind kind, auto&... weight) { f(kind, weight...); };
  walk::visit(drop_name, walk::NoPath{}, Kind::trainable, tree, trees...);
}

// f(path, kind, weight, weights...), path a const std::string&.
template <class F, class Tree, class... Trees>
void for_each_named_weight(F&& f, Tree& tree, Trees&... trees) {
  auto with_name = [&](const walk::Path& path, Kind kind, auto&... weight) { f(path.text, kind, weight...); };
  walk::visit(with_name, walk::Path{}, Kind::trainable, tree, trees...);
}

template <class Tree>
void set_zero(Tree& tree) {
  for_each_weight([](auto& w) {
    std::memset(static_cast<void*>(w.data()), 0, sizeof(*w.data()) * w.size());
    w.touched = false;
  }, tree);
}

// Marks a gradient as reached by at least one token.
template <class Tree>
void touch(Tree& gradient) {
  for_each_weight([](auto& w) { w.touched = true; }, gradient);
}

// Numbers held, buffers included.
template <class Tree>
Index count_weights(const Tree& tree) {
  Index count = 0;
  for_each_weight([&](const auto& w) { count += w.size(); }, tree);
  return count;
}

// "path[index]" of the first number that is not finite; empty if there is none.
template <class Tree>
std::string first_not_finite(const Tree& tree) {
  std::string found;
  for_each_named_weight([&](const std::string& path, Kind, const auto& w) {
    for (Index i = 0; found.empty() && i < w.size(); ++i)
      if (!std::isfinite(w[i])) found = path + "[" + std::to_string(i) + "]";
  }, tree);
  return found;
}

namespace walk {
struct Anything {
  template <class X>
  operator X() const;
};
template <class X, class... Given>
consteval int count_members() {
  if constexpr (requires { X{Given{}..., Anything{}}; })
    return count_members<X, Given..., Anything>();
  else
    return sizeof...(Given);
}
}  // namespace walk

// Whether fields() names every member of the struct, apart from run-time constants called `options`.
template <class Layer>
consteval bool lists_every_field() {
  const int listed = static_cast<int>(std::tuple_size_v<decltype(Layer::fields())>);
  const int constants = requires(Layer l) { l.options; } ? 1 : 0;
  return walk::count_members<Layer>() == listed + constants;
}

}  // namespace moegpt::inline MOEGPT_BUILD
