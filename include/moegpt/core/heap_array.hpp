#pragma once
// HeapArray: an array of static length with its elements on the heap, for blocks, experts and their tapes. So
// the size of a model object does not depend on its layers and experts.
#include <moegpt/core/build.hpp>

#include <cstddef>
#include <utility>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// N value-initialised elements, with the interface of std::array and deep copies. Move construction allocates
// N elements and moves the elements, so a moved-from array has N moved-from elements: weights of it are
// empty. Move assignment swaps.
template <class X, int N>
class HeapArray {
 public:
  using value_type = X;

  [[gnu::noinline]] HeapArray() : list_(new List()) {}
  [[gnu::noinline]] HeapArray(const HeapArray& other) : list_(new List(*other.list_)) {}
  [[gnu::noinline]] HeapArray(HeapArray&& other) noexcept : list_(new List(std::move(*other.list_))) {}
  [[gnu::noinline]] HeapArray& operator=(const HeapArray& other) {
    *list_ = *other.list_;
    return *this;
  }
  HeapArray& operator=(HeapArray&& other) noexcept {
    std::swap(list_, other.list_);
    return *this;
  }
  [[gnu::noinline]] ~HeapArray() { delete list_; }

  static constexpr std::size_t size() { return N; }
  X* data() { return list_->element; }
  const X* data() const { return list_->element; }
  X& operator[](std::size_t i) { return data()[i]; }
  const X& operator[](std::size_t i) const { return data()[i]; }
  X* begin() { return data(); }
  X* end() { return data() + N; }
  const X* begin() const { return data(); }
  const X* end() const { return data() + N; }

 private:
  struct List {
    X element[N];
  };
  List* list_;  // never null
};

// No elements: an empty class, without size under [[no_unique_address]].
template <class X>
class HeapArray<X, 0> {
 public:
  using value_type = X;

  static constexpr std::size_t size() { return 0; }
  X* data() { return nullptr; }
  const X* data() const { return nullptr; }
  X& operator[](std::size_t i) { return data()[i]; }  // compiles, as a loop over none needs
  const X& operator[](std::size_t i) const { return data()[i]; }
  X* begin() { return nullptr; }
  X* end() { return nullptr; }
  const X* begin() const { return nullptr; }
  const X* end() const { return nullptr; }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
