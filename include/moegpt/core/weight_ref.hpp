#pragma once
// WeightRef: a weight of any shape, as traversals of a parameter tree pass it to their functions
// (core/fields.hpp).
#include <moegpt/core/bf16.hpp>

#include <span>
#include <type_traits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <class X>
inline constexpr bool is_weight = false;
template <class T, int... Extents>
inline constexpr bool is_weight<Weight<T, Extents...>> = true;

// What every WeightRef has: the shape of a weight, and its memory and mark by reference.
template <class T, class Memory>
class WeightRefTo {
 public:
  using Scalar = std::remove_const_t<T>;
  std::span<const int> shape;
  Index extent = 0, rows = 0, cols = 0;

  template <int... Extents>
  explicit WeightRefTo(Weight<Scalar, Extents...>& w)
      : shape(w.shape),
        extent(w.extent),
        rows(w.rows),
        cols(w.cols),
        memory_(&w.memory()),
        touched(w.touched) {}
  template <class U>
    requires std::is_same_v<const U, T>
  explicit WeightRefTo(const WeightRefTo<U, Memory>& other)
      : shape(other.shape),
        extent(other.extent),
        rows(other.rows),
        cols(other.cols),
        memory_(other.memory_),
        touched(other.touched) {}

  bool empty() const { return memory_->size() == 0; }
  Index size() const { return memory_->size(); }
  void release() const
    requires(!std::is_const_v<T>)
  {
    memory_->release();
  }

  Memory* memory_;
  std::conditional_t<std::is_const_v<T>, const bool&, bool&> touched;
};

// Like a Weight<T, ...>, or a const one for const T, but with its shape at run time.
template <class T>
class WeightRef : public WeightRefTo<T, Buffer<std::remove_const_t<T>>> {
  using Base = WeightRefTo<T, Buffer<std::remove_const_t<T>>>;

 public:
  using Base::Base, Base::rows, Base::cols, Base::memory_, Base::empty, Base::size;

  T* data() const { return memory_->data(); }
  T& operator[](Index i) const { return memory_->data()[i]; }
  T* begin() const { return data(); }
  T* end() const { return data() + size(); }
  MatrixView<T> view() const { return {data(), empty() ? 0 : rows, cols, cols}; }
  auto eigen() const { return EigenMap<T, EigenRowMajor<T>>(data(), empty() ? 0 : rows, cols); }
  void allocate() const
    requires(!std::is_const_v<T>)
  {
    if (empty()) memory_->release();  // zeros if it was empty
    memory_->resize(this->extent);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
