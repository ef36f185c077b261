#pragma once
// A list whose elements are of two kinds, in an order known at compile time: dense and mixture blocks. Each
// kind lives in its own array; a table says which element is the i-th of its kind.
#include <moegpt/core/heap_array.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// Pattern::layers elements; Pattern::second(i) says whether the i-th is a B.
template <class A, class B, class Pattern>
struct Interleaved {
  using first_type = A;
  using value_type = B;
  static constexpr int length = Pattern::layers;
  static constexpr int count_second() {
    int n = 0;
    for (int i = 0; i < length; ++i) n += Pattern::second(i);
    return n;
  }
  static constexpr int bs = count_second(), as = length - bs;
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

  // f(element, same element of the other lists ...)
  template <class F, class... Others>
  void at_layer(int layer, F&& f, Others&... others) { dispatch(*this, layer, f, others...); }
  template <class F, class... Others>
  void at_layer(int layer, F&& f, Others&... others) const { dispatch(*this, layer, f, others...); }

 private:
  template <class Self, class F, class... Others>
  static void dispatch(Self& self, int layer, F& f, Others&... others) {
    const auto i = static_cast<std::size_t>(index_within_kind(layer));
    if constexpr (as > 0)
      if (!Pattern::second(layer)) f(self.first[i], others.first[i]...);
    if constexpr (bs > 0)
      if (Pattern::second(layer)) f(self.second[i], others.second[i]...);
  }
};

}  // namespace moegpt::inline MOEGPT_BUILD
