#pragma once
// INT8 storage: integers q from -127 to 127, and one float scale for each row and block of 32 inputs:
//   w = q scale, rounded once to float;  scale = max |w| / 127 over the block,  q = round(w / scale)
// 9 bits per weight. The error of a weight is at most scale / 2.
#include <moegpt/core/fields.hpp>

#include <algorithm>
#include <limits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Names the storage. Integers and scales are in separate buffers.
struct INT8 {
  static constexpr Index block = 32;
  static constexpr Index blocks(Index inputs) { return (inputs + block - 1) / block; }
};
template <>
struct WidenedType<INT8> {
  using type = float;
};

// rows x cols integers, each row contiguous, and their scales [blocks, rows], so that those of several rows
// are contiguous. A view of columns begins at a multiple of the block.
template <class Q>
struct Int8View {
  using Scale = std::conditional_t<std::is_const_v<Q>, const float, float>;
  Q* data = nullptr;
  Index rows = 0, cols = 0, stride = 0;
  Scale* scales = nullptr;
  Index scale_stride = 0;

  Q* operator[](Index row) const { return data + row * stride; }
  Scale* scales_of(Index block) const { return scales + block * scale_stride; }  // of all rows
  float at(Index row, Index k) const {
    return static_cast<float>((*this)[row][k]) * scales_of(k / INT8::block)[row];
  }
  Int8View rows_at(Rows r) const {
    return {(*this)[r.first], r.count, cols, stride, scales + r.first, scale_stride};
  }
  Int8View cols_at(Index first, Index count) const {
    return {data + first, rows, count, stride, scales_of(first / INT8::block), scale_stride};
  }
  operator Int8View<const Q>() const
    requires(!std::is_const_v<Q>)
  {
    return {data, rows, cols, stride, scales, scale_stride};
  }
};
using ConstInt8View = Int8View<const std::int8_t>;

inline void read_row(ConstInt8View w, Index row, float* to) {
  for (Index k = 0; k < w.cols; ++k) to[k] = w.at(row, k);
}
// Elements must be finite. A block whose scale would be below the smallest normal float is stored as zeros.
[[gnu::noinline]] inline void write_row(Int8View<std::int8_t> w, Index row, const float* from) {
  for (Index first = 0; first < w.cols; first += INT8::block) {
    const Index end = std::min(first + INT8::block, w.cols);
    float most = 0;
    for (Index k = first; k < end; ++k) most = std::max(most, std::abs(from[k]));
    float scale = most / 127;
    if (scale < std::numeric_limits<float>::min()) scale = 0;
    w.scales_of(first / INT8::block)[row] = scale;
    for (Index k = first; k < end; ++k)
      w[row][k] = static_cast<std::int8_t>(
          scale > 0 ? std::clamp(std::nearbyint(from[k] / scale), -127.0f, 127.0f) : 0.0f);
  }
}

// Memory of a weight. Values and scales are empty together.
struct Int8Memory {
  Buffer<std::int8_t> values;  // [rows, cols]
  Buffer<float> scales;        // [blocks, rows]

  Index size() const { return values.size(); }
  void resize(Index rows, Index cols) {
    values.resize(rows * cols);
    scales.resize(rows * INT8::blocks(cols));
  }
  void release() {
    values.release();
    scales.release();
  }
};

// A matrix in INT8 storage.
template <int Rows, int Cols>
  requires(Rows > 0 && Cols > 0)
class Weight<INT8, Rows, Cols> {
 public:
  using Scalar = INT8;
  static constexpr std::array<int, 2> shape{Rows, Cols};
  static constexpr Index rows = Rows, cols = Cols, extent = rows * cols;

  Weight() { memory_.resize(rows, cols); }
  bool empty() const { return memory_.size() == 0; }
  void release() { memory_.release(); }
  void allocate() {
    if (empty()) memory_.release();  // zeros if it was empty
    memory_.resize(rows, cols);
  }
  Int8Memory& memory() { return memory_; }
  Index size() const { return memory_.size(); }
  operator Int8View<std::int8_t>() {
    return {memory_.values.data(), empty() ? 0 : rows, cols, cols, memory_.scales.data(), rows};
  }
  operator ConstInt8View() const {
    return {memory_.values.data(), empty() ? 0 : rows, cols, cols, memory_.scales.data(), rows};
  }
  float operator[](Index i) const { return ConstInt8View(*this).at(i / cols, i % cols); }

  bool touched = false;

 private:
  Int8Memory memory_;
};

// As traversals pass it to their functions. T: INT8 or const INT8.
template <class T>
  requires std::same_as<std::remove_const_t<T>, INT8>
class WeightRef<T> : public WeightRefTo<T, Int8Memory> {
  using Base = WeightRefTo<T, Int8Memory>;

 public:
  using View = Int8View<std::conditional_t<std::is_const_v<T>, const std::int8_t, std::int8_t>>;
  using Base::Base, Base::rows, Base::cols, Base::memory_, Base::empty;

  View view() const {
    return {memory_->values.data(), empty() ? 0 : rows, cols, cols, memory_->scales.data(), rows};
  }
  float operator[](Index i) const { return view().at(i / cols, i % cols); }
  void allocate() const
    requires(!std::is_const_v<T>)
  {
    if (empty()) memory_->release();  // zeros if it was empty
    memory_->resize(rows, cols);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
