#pragma once
// fields(): the list of a layer's weights, which makes a model a parameter tree. Optimizer, files, gradient
// check and counting are traversals of one or several trees of the same type. A weight is identified by its
// path, such as blocks.3.moe.experts.5.up.weight.
#include <moegpt/core/path.hpp>
#include <moegpt/core/start.hpp>
#include <moegpt/core/weight_ref.hpp>

#include <cmath>
#include <concepts>
#include <string>
#include <tuple>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Kind {
  trainable,
  buffer,  // saved with the model, without gradient, moments, clipping or decay
  sparse,  // trainable, but not used by every pass: experts, masks of tasks (see Weight::touched)
};

namespace walk {
// Attributes of a field, for all weights in it.
struct Attributes {
  Kind kind = Kind::trainable;
  Start start;
};
}  // namespace walk

template <class Owner, class Member>
struct Field {
  std::string_view name;
  Member Owner::* member;
  walk::Attributes attributes;
  constexpr Field(std::string_view n, Member Owner::* m, Kind k = Kind::trainable, Start s = {})
      : name(n), member(m), attributes{k, s} {}
  constexpr Field(std::string_view n, Member Owner::* m, Start s) : Field(n, m, Kind::trainable, s) {}
};

// A list of fields. Compiles faster than std::tuple, which would be instantiated for every layer and shape.
template <class... Entries>
struct Fields {
  static constexpr int size = 0;
  constexpr Fields() = default;
};
template <class First, class... Rest>
struct Fields<First, Rest...> {
  static constexpr int size = 1 + sizeof...(Rest);
  First first;
  Fields<Rest...> rest;
  constexpr explicit Fields(First f, Rest... r) : first(f), rest(r...) {}
};
template <class... Entries>
Fields(Entries...) -> Fields<Entries...>;

template <class X>
concept HasFields = requires { std::remove_cvref_t<X>::fields(); };

namespace walk {

inline auto first_scalar() { return std::type_identity<void>{}; }
template <class First, class... Rest>
auto first_scalar(First first, Rest... rest) {
  if constexpr (std::is_void_v<typename First::type>)
    return first_scalar(rest...);
  else
    return first;
}
template <bool stored, class X>
auto scalar_in();
template <bool stored, class... Owner, class... Member>
auto scalar_in_fields(const Fields<Field<Owner, Member>...>&) {
  return first_scalar(scalar_in<stored, Member>()...);
}
// The scalar of the first weight found in X; with `stored`, of the first in panels
// (core/panels.hpp). void if there is none.
template <bool stored, class X>
auto scalar_in() {
  using Tree = std::remove_cvref_t<X>;
  if constexpr (is_weight<Tree>) {
    using T = typename Tree::Scalar;
    return std::type_identity<std::conditional_t<stored && std::same_as<T, Widened<T>>, void, T>>{};
  } else if constexpr (!stored && requires { typename Tree::Scalar; }) {
    return std::type_identity<typename Tree::Scalar>{};
  } else if constexpr (HasFields<Tree>) {
    return scalar_in_fields<stored>(Tree::fields());
  } else if constexpr (requires { typename Tree::first_type; }) {  // of model/Interleaved
    return first_scalar(scalar_in<stored, typename Tree::first_type>(),
                        scalar_in<stored, typename Tree::value_type>());
  } else {
    return scalar_in<stored, typename Tree::value_type>();
  }
}
template <class X>
using Scalar = typename decltype(scalar_in<false, X>())::type;
// The storage of the matrices of X: panels, or Scalar<X> if there are none.
template <class X>
using Storage = typename decltype(first_scalar(scalar_in<true, X>(), scalar_in<false, X>()))::type;

// Type-erased function of the same weight of N trees, of type T or S, so that visit is instantiated once per
// tree type.
template <class T, class S, std::size_t N>
struct Visitor {
  void* object;
  void (*call)(void*, const Path&, const Attributes&, const std::array<WeightRef<T>, N>&);
  void (*call_stored)(void*, const Path&, const Attributes&, const std::array<WeightRef<S>, N>&);
};

// An outer buffer or constant start wins; otherwise the inner attribute, unless it is the default.
[[gnu::noinline]] inline Attributes inherit(const Attributes& outer, const Attributes& inner) {
  const bool same_kind = outer.kind == Kind::buffer || inner.kind == Kind::trainable;
  const bool same_start =
      outer.start.rule == Start::Rule::constant || inner.start.rule == Start::Rule::by_shape;
  return {same_kind ? outer.kind : inner.kind, same_start ? outer.start : inner.start};
}

template <class T, class S, class Tree, std::same_as<Tree>... Trees>
void visit(const Visitor<T, S, 1 + sizeof...(Trees)>& f, Path& path, const Attributes& attributes, Tree& tree,
           Trees&... trees);

template <class T, class S, class List, class... Trees>
void visit_fields(const Visitor<T, S, sizeof...(Trees)>& f, Path& path, const Attributes& attributes,
                  const List& list, Trees&... trees) {
  if constexpr (List::size > 0) {
    const auto& field = list.first;
    const std::size_t before = path.push(field.name);
    visit<T, S>(f, path, inherit(attributes, field.attributes), trees.*field.member...);
    path.pop(before);
    visit_fields<T, S>(f, path, attributes, list.rest, trees...);
  }
}

template <class T, class S, class Tree, std::same_as<Tree>... Trees>
void visit(const Visitor<T, S, 1 + sizeof...(Trees)>& f, Path& path, const Attributes& attributes, Tree& tree,
           Trees&... trees) {
  if constexpr (is_weight<Tree>) {
    if constexpr (Tree::extent > 0 && std::same_as<typename Tree::Scalar, S>)
      f.call_stored(f.object, path, attributes, {WeightRef<S>(tree), WeightRef<S>(trees)...});
    else if constexpr (Tree::extent > 0)
      f.call(f.object, path, attributes, {WeightRef<T>(tree), WeightRef<T>(trees)...});
  } else if constexpr (HasFields<Tree>) {
    static constexpr auto list = Tree::fields();
    visit_fields<T, S>(f, path, attributes, list, tree, trees...);
  } else {  // a list: HeapArray, std::array, std::vector or model/Interleaved
    for (int i = 0; i < static_cast<int>(tree.size()); ++i) {
      const std::size_t before = path.push(i), at = static_cast<std::size_t>(i);
      if constexpr (requires { tree.at_layer(0, [](auto&...) {}, trees...); })
        tree.at_layer(i, [&](auto&... element) { visit<T, S>(f, path, attributes, element...); }, trees...);
      else
        visit<T, S>(f, path, attributes, tree[at], trees[at]...);
      path.pop(before);
    }
  }
}

// Calls a G with (path, attributes, ref, refs...), each const where its tree is.
template <class G, class T, bool... Const>
void call(void* object, const Path& path, const Attributes& attributes,
          const std::array<WeightRef<T>, sizeof...(Const)>& refs) {
  [&]<std::size_t... At>(std::index_sequence<At...>) {
    std::tuple<WeightRef<std::conditional_t<Const, const T, T>>...> typed{
        WeightRef<std::conditional_t<Const, const T, T>>(refs[At])...};
    (*static_cast<G*>(object))(path, attributes, std::get<At>(typed)...);
  }(std::make_index_sequence<sizeof...(Const)>{});
}
// Root of a traversal: a weight, a struct with fields(), or a list of these.
template <class X>
concept Tree = is_weight<std::remove_const_t<X>> || HasFields<X> ||
               requires { typename std::remove_const_t<X>::value_type; };

template <class G, class First, class... Rest>
void each(G&& g, First& first, Rest&... rest) {
  constexpr bool is_tree = Tree<First>;
  constexpr bool of_one_type = (std::is_same_v<std::remove_const_t<First>, std::remove_const_t<Rest>> && ...);
  static_assert(is_tree,
                "a walk over weights takes a tree: a struct with fields(), a Weight, or an array of these");
  static_assert(of_one_type,
                "a walk over several trees takes trees of one type, const or not: a model and gradients, "
                "moments or copies of the same type");
  if constexpr (is_tree && of_one_type) {
    using T = Scalar<First>;
    using S = Storage<First>;
    if constexpr (!std::is_void_v<T>) {
      using F = std::remove_reference_t<G>;
      const Visitor<T, S, 1 + sizeof...(Rest)> f{
          &g, call<F, T, std::is_const_v<First>, std::is_const_v<Rest>...>,
          call<F, S, std::is_const_v<First>, std::is_const_v<Rest>...>};
      Path path;
      visit<T, S>(f, path, {}, const_cast<std::remove_const_t<First>&>(first),
                  const_cast<std::remove_const_t<Rest>&>(rest)...);
    }
  }
}

}  // namespace walk

// f(weight, weights...) for every weight of `tree`, in the order of fields(), with the same weight of the
// others; each a WeightRef.
template <class F, class Tree, class... Trees>
void for_each_weight(F&& f, Tree& tree, Trees&... trees) {
  walk::each([&](const auto&, const auto&, auto&... weight) { f(weight...); }, tree, trees...);
}

// f(kind, weight, weights...)
template <class F, class Tree, class... Trees>
void for_each_weight_of_kind(F&& f, Tree& tree, Trees&... trees) {
  walk::each([&](const auto&, const auto& attributes, auto&... weight) { f(attributes.kind, weight...); },
             tree, trees...);
}

// f(path, kind, weight, weights...), path a std::string.
template <class F, class Tree, class... Trees>
void for_each_named_weight(F&& f, Tree& tree, Trees&... trees) {
  walk::each([&](const walk::Path& path, const auto& attributes,
                 auto&... weight) { f(std::string(path.text()), attributes.kind, weight...); },
             tree, trees...);
}

template <class Tree>
void set_zero(Tree& tree) {
  for_each_weight(
      [](auto& w) {
        using T = typename std::remove_reference_t<decltype(w)>::Scalar;
        if (!w.empty()) std::memset(static_cast<void*>(w.data()), 0, bytes_of<T>(w.size()));
        w.touched = false;
      },
      tree);
}

// Sets `touched`: at least one token contributed to this gradient.
template <class Tree>
void touch(Tree& gradient) {
  for_each_weight([](auto& w) { w.touched = true; }, gradient);
}

// Number of elements held, buffers included.
template <class Tree>
Index count_weights(const Tree& tree) {
  Index count = 0;
  for_each_weight([&](const auto& w) { count += w.size(); }, tree);
  return count;
}

namespace walk {
struct FirstNotFinite {
  std::string found;
  void operator()(const Path& path, const Attributes&, const auto& w) {
    for (Index i = 0; found.empty() && i < w.size(); ++i)
      if (!std::isfinite(w[i])) found = std::string(path.text()) + "[" + std::to_string(i) + "]";
  }
};
}  // namespace walk

// "path[index]" of the first element that is not finite; empty if there is none.
template <class Tree>
std::string first_not_finite(const Tree& tree) {
  walk::FirstNotFinite search;
  walk::each(search, tree);
  return search.found;
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

// Whether fields() lists every member of the struct except one called `options` (run-time constants).
template <class Layer>
consteval bool lists_every_field() {
  const int listed = decltype(Layer::fields())::size;
  const int constants = requires(Layer l) { l.options; } ? 1 : 0;
  return walk::count_members<Layer>() == listed + constants;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
