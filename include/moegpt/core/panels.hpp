#pragma once
// Matrices as they are stored for inference: in panels of 64 rows (outputs), in which the elements of a
// column (input) are contiguous. A product with few rows reads them in the order of memory, with outputs as
// lanes of vectors. A panel of W [rows, cols] is
//   float, BF16   [cols][64]
//   INT8          for each block of 32 columns: scales [64], integers [32][64]
// The last panel has the rows that are left, rounded up to a multiple of 16; those beyond W are zero.
#include <moegpt/core/fields.hpp>
#include <moegpt/core/int8.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Names the storage of a matrix: elements S in panels.
template <class S>
struct Panels {
  static_assert(std::same_as<S, float> || std::same_as<S, BF16> || std::same_as<S, INT8>);
  using Number = S;
  using Unit = std::conditional_t<std::same_as<S, INT8>, std::int8_t, S>;
  static constexpr Index rows = 64;

  // Units of a row of a panel: its elements, and for INT8 the bytes of its scales.
  static constexpr Index units(Index cols) {
    return std::same_as<S, INT8> ? cols + Index{sizeof(float)} * INT8::blocks(cols) : cols;
  }
  static constexpr Index units(Index matrix_rows, Index cols) {
    return (matrix_rows + 15) / 16 * 16 * units(cols);
  }
};
template <class S>
struct WidenedType<Panels<S>> {
  using type = float;
};
template <class S>
struct ElementType {
  using type = S;
};
template <class S>
struct ElementType<Panels<S>> {
  using type = S;
};
// What an element is stored as: S, or that of the panels.
template <class S>
using Element = typename ElementType<S>::type;

// Some rows and columns of a matrix in panels. Products take views that begin at a row which is a multiple of
// 16 and, for INT8, at a column which is a multiple of 32. Unit: Panels<S>::Unit or const.
template <class S, class Unit>
struct PanelsView {
  using Storage = Panels<S>;
  static constexpr bool scaled = std::same_as<S, INT8>;

  Unit* data = nullptr;
  Index matrix_rows = 0, matrix_cols = 0;
  Index rows = matrix_rows, cols = matrix_cols;
  Index first_row = 0, first_col = 0;

  PanelsView() = default;
  PanelsView(Unit* units, Index r, Index c) : data(units), matrix_rows(r), matrix_cols(c) {}
  template <class U>
    requires std::same_as<const U, Unit>
  PanelsView(const PanelsView<S, U>& v)
      : data(v.data),
        matrix_rows(v.matrix_rows),
        matrix_cols(v.matrix_cols),
        rows(v.rows),
        cols(v.cols),
        first_row(v.first_row),
        first_col(v.first_col) {}

  PanelsView rows_at(Rows r) const {
    PanelsView part = *this;
    part.first_row += r.first, part.rows = r.count;
    return part;
  }
  PanelsView cols_at(Rows c) const {
    PanelsView part = *this;
    part.first_col += c.first, part.cols = c.count;
    return part;
  }

  // Of the panel with this row: its rows, and its number for this row.
  Index panel_rows(Index row) const {
    const Index left = (matrix_rows + 15) / 16 * 16 - panel_first(row);
    return left < Storage::rows ? left : Storage::rows;
  }
  Index row_in_panel(Index row) const { return (first_row + row) % Storage::rows; }
  // Address of the column's element in this row. For INT8 of its integer.
  Unit* at(Index row, Index col) const {
    if constexpr (scaled) {
      const Index k = first_col + col, width = panel_rows(row);
      return block(row, k / INT8::block) + Index{sizeof(float)} * width + k % INT8::block * width +
             row_in_panel(row);
    } else {
      return panel(row) + (first_col + col) * panel_rows(row) + row_in_panel(row);
    }
  }
  // INT8: the scale of a row in the block of a column.
  float scale(Index row, Index col) const
    requires scaled
  {
    float s;
    std::memcpy(&s, scale_at(row, col), sizeof s);
    return s;
  }
  void set_scale(Index row, Index col, float s) const
    requires(scaled && !std::is_const_v<Unit>)
  {
    std::memcpy(scale_at(row, col), &s, sizeof s);
  }
  Unit* scale_at(Index row, Index col) const
    requires scaled
  {
    return block(row, (first_col + col) / INT8::block) + Index{sizeof(float)} * row_in_panel(row);
  }
  // As arithmetic takes it.
  float number(Index row, Index col) const {
    if constexpr (scaled)
      return static_cast<float>(*at(row, col)) * scale(row, col);
    else
      return static_cast<float>(*at(row, col));
  }

 private:
  Index panel_first(Index row) const { return (first_row + row) / Storage::rows * Storage::rows; }
  Unit* panel(Index row) const { return data + panel_first(row) * Storage::units(matrix_cols); }
  Unit* block(Index row, Index b) const {
    return panel(row) + b * (INT8::block + Index{sizeof(float)}) * panel_rows(row);
  }
};
template <class S>
using ConstPanelsView = PanelsView<S, const typename Panels<S>::Unit>;

// to[k] = w[row][k],  w[row][k] = from[k]. Elements to be stored as INT8 must be finite.
template <class S, class Unit>
[[gnu::noinline]] void read_row(PanelsView<S, Unit> w, Index row, float* to) {
  for (Index k = 0; k < w.cols; ++k) to[k] = w.number(row, k);
}
template <class S, class Unit>
[[gnu::noinline]] void write_row(PanelsView<S, Unit> w, Index row, const float* from) {
  if constexpr (std::same_as<S, INT8>) {
    for (Index first = 0; first < w.cols; first += INT8::block) {
      const Index count = std::min(INT8::block, w.cols - first);
      const float scale = INT8::scale_of(from + first, count);
      w.set_scale(row, first, scale);
      for (Index k = first; k < first + count; ++k) *w.at(row, k) = INT8::rounded(from[k], scale);
    }
  } else {
    for (Index k = 0; k < w.cols; ++k) *w.at(row, k) = static_cast<Unit>(from[k]);
  }
}

template <class X>
inline constexpr bool is_panels = false;
template <class S>
inline constexpr bool is_panels<Panels<S>> = true;

template <class S, int Rows, int Cols>
  requires(Rows > 0 && Cols > 0)
class Weight<Panels<S>, Rows, Cols> {
  using Unit = typename Panels<S>::Unit;

 public:
  using Scalar = Panels<S>;
  static constexpr std::array<int, 2> shape{Rows, Cols};
  static constexpr Index rows = Rows, cols = Cols, extent = rows * cols;

  Weight() { allocate(); }
  bool empty() const { return memory_.size() == 0; }
  void release() { memory_.release(); }
  void allocate() {
    if (empty()) memory_.release();  // zeros if it was empty
    memory_.resize(Panels<S>::units(rows, cols));
  }
  Buffer<Unit>& memory() { return memory_; }
  Index size() const { return empty() ? 0 : extent; }
  operator PanelsView<S, Unit>() { return {memory_.data(), empty() ? 0 : rows, cols}; }
  operator ConstPanelsView<S>() const { return {memory_.data(), empty() ? 0 : rows, cols}; }
  float operator[](Index i) const { return ConstPanelsView<S>(*this).number(i / cols, i % cols); }

  bool touched = false;

 private:
  Buffer<Unit> memory_;
};

// As traversals pass it to their functions. T: Panels<S> or const Panels<S>.
template <class T>
  requires is_panels<std::remove_const_t<T>>
class WeightRef<T> : public WeightRefTo<T, Buffer<typename T::Unit>> {
  using Base = WeightRefTo<T, Buffer<typename T::Unit>>;
  using Unit = std::conditional_t<std::is_const_v<T>, const typename T::Unit, typename T::Unit>;

 public:
  using View = PanelsView<typename T::Number, Unit>;
  using Base::Base, Base::rows, Base::cols, Base::extent, Base::memory_, Base::empty;

  Index size() const { return empty() ? 0 : extent; }
  View view() const { return {memory_->data(), empty() ? 0 : rows, cols}; }
  float operator[](Index i) const { return view().number(i / cols, i % cols); }
  void allocate() const
    requires(!std::is_const_v<T>)
  {
    if (empty()) memory_->release();  // zeros if it was empty
    memory_->resize(std::remove_const_t<T>::units(rows, cols));
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
