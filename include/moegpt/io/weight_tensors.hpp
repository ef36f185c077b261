#pragma once
// A weight as tensors of a file. A file's numbers and a model's storage need not be of one type: rows are
// converted one by one, so that nothing beside the file and the model is held. Weights stored as INT8 are two
// tensors,
//   path        I8  [rows, cols]               q
//   path.scale  F32 [ceil(cols / 32), rows]    one for each row and block of 32 columns; w = q scale
#include <moegpt/core/number.hpp>
#include <moegpt/io/safetensors_header.hpp>

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

template <class W>
std::vector<Index> shape_of(const W& weight) {
  return {weight.shape.begin(), weight.shape.end()};
}
inline std::string scale_of(const std::string& path) { return path + ".scale"; }
inline std::vector<Index> scale_shape(Index rows, Index cols) { return {INT8::blocks(cols), rows}; }

// The bytes of a weight's tensors; scales: those of an I8 tensor.
struct WeightBytes {
  DType dtype;
  const char* numbers;
  const char* scales = nullptr;
};

// The scales of the tensor at `path`; null unless it is I8 and has them.
inline const TensorInfo* scales_in(const TensorInfos& tensors, const std::string& path) {
  const auto numbers = tensors.find(path), scales = tensors.find(scale_of(path));
  const bool found =
      numbers != tensors.end() && numbers->second.dtype == DType::i8 && scales != tensors.end();
  return found ? &scales->second : nullptr;
}

// What is wrong with the file's tensors as values of this weight; empty if nothing is.
template <class W>
std::string misfit(const std::string& path, const W& weight, const TensorInfo& tensor,
                   const TensorInfo* scales) {
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

// Throws at the first number that is not finite when it is stored as S.
template <class S>
void check_finite(const std::string& owner, const std::string& path, DType dtype, const char* bytes,
                  Index count) {
  using Real = Widened<S>;
  for_each_number<Real>(dtype, bytes, count, [&](Index i, Real number) {
    Real stored = number;
    if constexpr (!std::same_as<S, INT8>) stored = static_cast<Real>(static_cast<S>(number));
    if (!is_finite(stored)) [[unlikely]]
      reject_file(owner, "tensor ", shown(path), " holds ", number, " at index ", i, ", expected a finite ",
                  std::same_as<S, BF16> ? "BF16"
                  : sizeof(Real) == 4   ? "float"
                                        : "double");
  });
}
template <class W>
void check_finite(const std::string& owner, const std::string& path, const W& weight,
                  const WeightBytes& bytes) {
  using S = typename W::Scalar;
  if (bytes.scales)
    check_finite<float>(owner, scale_of(path), DType::f32, bytes.scales,
                        weight.rows * INT8::blocks(weight.cols));
  else
    check_finite<S>(owner, path, bytes.dtype, bytes.numbers, weight.size());
}

// Fills a weight, row by row. I8 as INT8 is copied.
template <class W>
void read_weight(const W& weight, const WeightBytes& from) {
  using S = typename W::Scalar;
  using Real = Widened<S>;
  const Index rows = weight.rows, cols = weight.cols, bytes = cols * facts(from.dtype).bits / 8;
  if constexpr (std::same_as<S, INT8>)
    if (from.scales) {
      std::memcpy(weight.memory_->values.data(), from.numbers, static_cast<std::size_t>(rows * cols));
      std::memcpy(weight.memory_->scales.data(), from.scales,
                  moegpt::bytes_of<float>(rows * INT8::blocks(cols)));
      return;
    }
  Buffer<Real> row(cols);
  for (Index i = 0; i < rows; ++i) {
    const char* numbers = from.numbers + i * bytes;
    if (from.scales) {
      for (Index k = 0; k < cols; ++k) {
        float scale;
        std::memcpy(&scale, from.scales + (k / INT8::block * rows + i) * Index{sizeof scale}, sizeof scale);
        row[k] = static_cast<float>(static_cast<std::int8_t>(numbers[k])) * scale;
      }
    } else {
      for_each_number<Real>(from.dtype, numbers, cols, [&](Index k, Real number) { row[k] = number; });
    }
    write_row(weight.view(), i, row.data());
  }
}

// Adds a weight's tensors to a list, without copying.
template <class W>
void add_tensors(const std::string& path, const W& weight, std::vector<NamedTensor>& list) {
  using S = typename W::Scalar;
  if constexpr (std::same_as<S, INT8>) {
    list.push_back({path, DType::i8, shape_of(weight), weight.memory_->values.data()});
    list.push_back(
        {scale_of(path), DType::f32, scale_shape(weight.rows, weight.cols), weight.memory_->scales.data()});
  } else {
    list.push_back({path, dtype_of<S>(), shape_of(weight), weight.data()});
  }
}
// The same as bytes.
template <class W>
WeightBytes bytes_of_weight(const W& weight) {
  std::vector<NamedTensor> list;
  add_tensors({}, weight, list);
  return {list[0].dtype, static_cast<const char*>(list[0].data),
          list.size() > 1 ? static_cast<const char*>(list[1].data) : nullptr};
}

}  // namespace safetensors

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
