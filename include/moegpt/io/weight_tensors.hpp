#pragma once
// A weight as tensors of a file. Rows are converted one by one, because a file's numbers and a model's
// storage need not be of one type, nor the storage row-major. About a mebibyte of a tensor is held beside the
// model. Weights stored as INT8 are two tensors,
//   path        I8  [rows, cols]               q
//   path.scale  F32 [ceil(cols / 32), rows]    one for each row and block of 32 columns; w = q scale
#include <moegpt/core/exec.hpp>
#include <moegpt/core/number.hpp>
#include <moegpt/io/safetensors_file.hpp>

#include <functional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// One tensor to write: numbers of `dtype`, row-major; `data` may be null if the shape has a zero.
struct NamedTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<Index> shape;
  const void* data = nullptr;
};

namespace safetensors {

// f(rows) for all rows, in pieces of about a mebibyte, at least one row each.
template <class F>
void for_each_piece(Index rows, Index row_bytes, F&& f) {
  constexpr Index piece_bytes = 1 << 20;
  const Index most = std::max(piece_bytes / row_bytes, Index{1});
  for (Index first = 0; first < rows; first += most) f(Rows{first, std::min(most, rows - first)});
}

template <class W>
std::vector<Index> shape_of(const W& weight) {
  return {weight.shape.begin(), weight.shape.end()};
}
inline std::string scale_of(const std::string& path) { return path + ".scale"; }
inline std::vector<Index> scale_shape(Index rows, Index cols) { return {INT8::blocks(cols), rows}; }

// The tensors of a weight in a file; scales: those of I8, or null.
struct WeightTensors {
  const TensorInfo* numbers;
  const TensorInfo* scales;
};
// Of the weight at `path`; numbers are null if it is not in the file.
inline WeightTensors tensors_of(const TensorInfos& tensors, const std::string& path) {
  const auto find = [&](const std::string& name) {
    const auto found = tensors.find(name);
    return found == tensors.end() ? nullptr : &found->second;
  };
  const TensorInfo* numbers = find(path);
  return {numbers, numbers && numbers->dtype == DType::i8 ? find(scale_of(path)) : nullptr};
}

// What is wrong with the file's tensors as values of this weight; empty if nothing is.
template <class W>
std::string misfit(const std::string& path, const W& weight, const WeightTensors& found) {
  const auto& [numbers, scales] = found;
  const TensorInfo& tensor = *numbers;
  const std::vector<Index> shape = shape_of(weight);
  if (tensor.shape != shape)
    return shown(path) + " has shape " + shown(tensor.shape) + ", expected " + shown(shape);
  if (tensor.dtype == DType::i8 && shape.size() == 2) {
    const auto expected = scale_shape(weight.rows, weight.cols);
    const std::string name = shown(scale_of(path)) + ", F32 " + shown(expected);
    if (!scales) return shown(path) + " is I8 without its scales, expected " + name;
    if (scales->dtype != DType::f32 || scales->shape != expected)
      return shown(scale_of(path)) + " is " + std::string(facts(scales->dtype).name) + " " +
             shown(scales->shape) + ", expected F32 " + shown(expected);
    return {};
  }
  if (!is_real(tensor.dtype))
    return shown(path) + " is " + std::string(facts(tensor.dtype).name) + ", expected F64, F32, F16 or BF16" +
           (shape.size() == 2 ? ", or I8 with scales" : "");
  return {};
}

// Throws at the first of `count` numbers that is not finite when it is stored as S; `at`: the first's index
// in the tensor.
template <class S>
void check_finite(const std::string& owner, const std::string& path, const Widened<S>* numbers, Index count,
                  Index at) {
  const auto finite = [numbers](Index i) {
    if constexpr (std::same_as<Element<S>, INT8>)
      return is_finite(numbers[i]);
    else
      return is_finite(static_cast<Widened<S>>(Element<S>(numbers[i])));
  };
  bool all = true;
  for (Index i = 0; i < count; ++i) all &= finite(i);  // one loop without a branch
  if (all) return;
  Index i = 0;
  while (finite(i)) ++i;
  reject_file(owner, "tensor ", shown(path), " holds ", numbers[i], " at index ", at + i,
              ", expected a finite ",
              std::same_as<Element<S>, BF16> ? "BF16"
              : sizeof(Widened<S>) == 4      ? "float"
                                             : "double");
}
// The same for a weight of a model.
template <class W>
void check_finite(const std::string& owner, const std::string& path, const W& weight) {
  using S = typename W::Scalar;
  const auto view = weight.view();
  if constexpr (std::same_as<Element<S>, INT8>)
    for (Index block = 0; block < INT8::blocks(weight.cols); ++block)
      for (Index i = 0; i < weight.rows; ++i) {
        const float scale = view.scale(i, block * INT8::block);
        check_finite<float>(owner, scale_of(path), &scale, 1, block * weight.rows + i);
      }
  Buffer<Widened<S>> row(weight.cols);
  for (Index i = 0; i < weight.rows; ++i) {
    read_row(view, i, row.data());
    check_finite<S>(owner, path, row.data(), weight.cols, i * weight.cols);
  }
}

// Consecutive rows of a weight's tensors, as they are in a file.
struct FileRows {
  const SafetensorsFile& file;
  const std::string& path;
  WeightTensors from;
  Index all_rows, cols;
  Rows rows{};
  Buffer<char> numbers{};  // [rows.count, cols]
  Buffer<float> scales{};  // [blocks, rows.count], of I8

  Index blocks() const { return from.scales ? INT8::blocks(cols) : 0; }
  Index number_bytes() const { return cols * facts(from.numbers->dtype).bits / 8; }  // of a row
  Index scale_bytes() const { return blocks() * Index{sizeof(float)}; }

  void read(Rows next, bool finite) {
    rows = next;
    numbers.resize(rows.count * number_bytes());
    file.read(from.numbers->begin + rows.first * number_bytes(), numbers.size(), numbers.data());
    scales.resize(rows.count * blocks());
    for (Index block = 0; block < blocks(); ++block) {
      float* const to = scales.data() + block * rows.count;
      const Index at = block * all_rows + rows.first, count = rows.count;
      file.read(from.scales->begin + at * Index{sizeof(float)}, count * Index{sizeof(float)},
                reinterpret_cast<char*>(to));
      if (finite) check_finite<float>(file.name, scale_of(path), to, count, at);
    }
  }
  std::int8_t integer(Index i, Index k) const { return static_cast<std::int8_t>(numbers[i * cols + k]); }
  float scale(Index i, Index block) const { return scales[block * rows.count + i]; }

  // Row i of these as reals.
  template <class Real>
  void widen(Index i, Real* to) const {
    if (!from.scales)
      return for_each_number<Real>(from.numbers->dtype, numbers.data() + i * number_bytes(), cols,
                                   [to](Index k, Real number) { to[k] = number; });
    for (Index block = 0; block < blocks(); ++block)
      for (Index k = block * INT8::block; k < std::min((block + 1) * INT8::block, cols); ++k)
        to[k] = static_cast<float>(integer(i, k)) * scale(i, block);
  }
  // Row i of these, which are I8, to the same row of the weight.
  void copy(Index i, PanelsView<INT8, std::int8_t> to) const {
    for (Index k = 0; k < cols; ++k) *to.at(rows.first + i, k) = integer(i, k);
    for (Index block = 0; block < blocks(); ++block)
      to.set_scale(rows.first + i, block * INT8::block, scale(i, block));
  }
};

struct Reading {
  bool check_finite, fill;  // fill: set the weight; otherwise it is unchanged
};

// Reads a weight's tensors, in pieces. I8 is copied to INT8, everything else is converted.
template <class W>
void read_weight(const SafetensorsFile& file, const std::string& path, const WeightTensors& from,
                 const W& weight, Reading how) {
  using S = typename W::Scalar;
  FileRows piece{file, path, from, weight.rows, weight.cols};
  Buffer<Widened<S>> row(weight.cols);
  for_each_piece(weight.rows, piece.number_bytes() + piece.scale_bytes(), [&](Rows rows) {
    piece.read(rows, how.check_finite);
    for (Index i = 0; i < rows.count; ++i) {
      const Index at = rows.first + i;
      piece.widen(i, row.data());
      if (how.check_finite) check_finite<S>(file.name, path, row.data(), weight.cols, at * weight.cols);
      if (!how.fill) continue;
      if constexpr (std::same_as<Element<S>, INT8>)
        if (from.scales) {
          piece.copy(i, weight.view());
          continue;
        }
      write_row(weight.view(), at, row.data());
    }
  });
}

// What takes the bytes of a file, in order.
using ByteSink = FunctionRef<std::string_view>;
// A tensor whose bytes are written by a function.
struct TensorToWrite {
  std::string name;
  DType dtype;
  std::vector<Index> shape;
  std::function<void(ByteSink)> write;
};

// Writes numbers [rows, cols], in pieces; read(row, to) provides a row.
template <class Number, class F>
void write_rows(ByteSink out, Index rows, Index cols, F&& read) {
  Buffer<Number> numbers;
  for_each_piece(rows, cols * Index{sizeof(Number)}, [&](Rows piece) {
    numbers.resize(piece.count * cols);
    for (Index i = 0; i < piece.count; ++i) read(piece.first + i, numbers.data() + i * cols);
    out({reinterpret_cast<const char*>(numbers.data()), moegpt::bytes_of<Number>(numbers.size())});
  });
}

// Adds a weight's tensors to a list, without copying.
template <class W>
void add_tensors(const std::string& path, const W& weight, std::vector<TensorToWrite>& list) {
  using S = Element<typename W::Scalar>;
  const Index rows = weight.rows, cols = weight.cols;
  const auto view = weight.view();
  if constexpr (std::same_as<S, INT8>) {
    list.push_back({path, DType::i8, shape_of(weight), [=](ByteSink out) {
                      write_rows<std::int8_t>(out, rows, cols, [&](Index row, std::int8_t* to) {
                        for (Index k = 0; k < cols; ++k) to[k] = *view.at(row, k);
                      });
                    }});
    list.push_back({scale_of(path), DType::f32, scale_shape(rows, cols), [=](ByteSink out) {
                      write_rows<float>(out, INT8::blocks(cols), rows, [&](Index block, float* to) {
                        for (Index row = 0; row < rows; ++row) to[row] = view.scale(row, block * INT8::block);
                      });
                    }});
  } else {
    list.push_back({path, dtype_of<S>(), shape_of(weight), [=](ByteSink out) {
                      Buffer<Widened<S>> widened(cols);
                      write_rows<S>(out, rows, cols, [&](Index row, S* to) {
                        read_row(view, row, widened.data());
                        for (Index k = 0; k < cols; ++k) to[k] = S(widened[k]);
                      });
                    }});
  }
}

}  // namespace safetensors

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
