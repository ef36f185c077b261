#pragma once
// List of elements of two types in an order known at compile time, such as dense and MoE blocks. Each type
// has its own array; a table maps a layer to its index there.
#include <moegpt/core/heap_array.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Number of Pattern's elements of the second type.
template <class Pattern>
inline constexpr int seconds_in = [] {
  int n = 0;
  for (int i = 0; i < Pattern::layers; ++i) n += Pattern::second(i);
  return n;
}();

// Pattern::layers elements; element i is a B if Pattern::second(i), otherwise an A.
template <class A, class B, class Pattern>
struct Interleaved {
  using first_type = A;
  using value_type = B;
  static constexpr int length = Pattern::layers;
  static constexpr int bs = seconds_in<Pattern>, as = length - bs;
  struct Table {
    int index_within_kind[length];
  };
  static constexpr Table table = [] {
    Table t{};
    int counted[2] = {};
    for (int i = 0; i < length; ++i) t.index_within_kind[i] = counted[Pattern::second(i)]++;
    return t;
  }();
  static constexpr int index_within_kind(int layer) { return table.index_within_kind[layer]; }

  [[no_unique_address]] HeapArray<A, as> first;
  [[no_unique_address]] HeapArray<B, bs> second;

  static constexpr int size() { return length; }

  // f(element, other element ...) of one layer; others: Interleaved or OnePerKind of the same Pattern.
  template <class F, class... Others>
  void at_layer(int layer, F&& f, Others&... others) {
    dispatch(*this, layer, f, others...);
  }
  template <class F, class... Others>
  void at_layer(int layer, F&& f, Others&... others) const {
    dispatch(*this, layer, f, others...);
  }

 private:
  template <class Self, class F, class... Others>
  static void dispatch(Self& self, int layer, F& f, Others&... others) {
    const auto i = static_cast<std::size_t>(index_within_kind(layer));
    if constexpr (as > 0)
      if (!Pattern::second(layer)) f(self.first[i], element(others.first, i)...);
    if constexpr (bs > 0)
      if (Pattern::second(layer)) f(self.second[i], element(others.second, i)...);
  }
  // Element i, or the only element.
  template <class List>
  static auto& element(List& list, std::size_t i) {
    return list[list.size() == 1 ? 0 : i];
  }
};

// One A and one B, shared by all layers of their type: memory that one block at a time uses. A type without
// layers has no element.
template <class A, class B, class Pattern>
struct OnePerKind {
  static constexpr int bs = seconds_in<Pattern>, as = Pattern::layers - bs;

  [[no_unique_address]] HeapArray<A, (as > 0)> first;
  [[no_unique_address]] HeapArray<B, (bs > 0)> second;

  template <class Pass>
  void resize(const Pass& pass) {
    for (A& a : first) a.resize(pass);
    for (B& b : second) b.resize(pass);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
