#pragma once
// Weights and tokens, and views of both. Extents of a model are template arguments, which the compiler
// checks. Kernels take a MatrixView with run-time extents, so they are compiled once.
#include <moegpt/core/buffer.hpp>

#include <array>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// A range of consecutive tokens.
struct Rows {
  Index first, count;
};

// The argument type of kernels: [rows, cols], each row contiguous, rows `stride` elements apart.
template <class T>
struct MatrixView {
  T* data = nullptr;
  Index rows = 0, cols = 0, stride = 0;

  T* operator[](Index row) const { return data + row * stride; }
  bool empty() const { return data == nullptr; }
  MatrixView rows_at(Rows r) const { return {data + r.first * stride, r.count, cols, stride}; }
  MatrixView cols_at(Index first, Index count) const { return {data + first, rows, count, stride}; }
  [[gnu::always_inline]] operator MatrixView<const T>() const { return {data, rows, cols, stride}; }
};

template <class T>
using EigenRowMajor = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using EigenColMajor = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;
template <class T, class Matrix>
using EigenMap = Eigen::Map<std::conditional_t<std::is_const_v<T>, const Matrix, Matrix>>;

// View of D x count elements, token by token. A layer reads In<D, T> and overwrites Out<D, T>; an empty Out:
// not required.
template <int D, class T>
struct TokensView {
  T* data = nullptr;
  Index count = 0;

  static constexpr int dim = D;
  T* operator[](Index token) const { return data + token * D; }
  bool empty() const { return data == nullptr; }
  // A range of the tokens; empty if the view is empty.
  TokensView rows(Rows r) const { return empty() ? TokensView{} : TokensView{data + r.first * D, r.count}; }
  [[gnu::always_inline]] operator TokensView<D, const T>() const { return {data, count}; }
  [[gnu::always_inline]] operator MatrixView<T>() const { return {data, count, D, D}; }
  [[gnu::always_inline]] operator MatrixView<const T>() const
    requires(!std::is_const_v<T>)
  {
    return {data, count, D, D};
  }

  // Selected only if the widths differ, for a readable error.
  template <int Other, class U>
    requires(Other != D)
  operator TokensView<Other, U>() const {
    static_assert(Other == D, "the width of these tokens is not the width that is expected here");
    return {};
  }

  // [D, count], one column per token.
  auto eigen() const { return EigenMap<T, EigenColMajor<T>>(data, D, count); }
};

template <int D, class T>
using In = TokensView<D, const T>;
template <int D, class T>
using Out = TokensView<D, T>;

// View of D x count elements that a function adds to. Conversion from Out is explicit and there is none to
// Out, so that a sum is not overwritten by mistake. Empty: not required.
template <int D, class T>
class Sum {
 public:
  static constexpr int dim = D;
  explicit Sum(Out<D, T> tokens) : tokens_(tokens) {}
  T* operator[](Index token) const { return tokens_[token]; }
  Index count() const { return tokens_.count; }
  bool empty() const { return tokens_.empty(); }
  MatrixView<T> matrix() const { return tokens_; }

 private:
  Out<D, T> tokens_;
};

// Owns D x count elements. resize() keeps the capacity, so a training step does not allocate.
template <int D, class T>
class Tokens {
  static_assert(D >= 0, "Tokens: the number of features is negative");

 public:
  static constexpr int dim = D;
  Tokens() = default;
  explicit Tokens(Index count) { resize(count); }
  void resize(Index count) {
    Index size;
    memory_.resize(__builtin_mul_overflow(count, Index{D}, &size) ? PTRDIFF_MAX
                                                                  : size);  // which Buffer rejects
  }
  // For the tokens of a pass.
  void resize(const auto& pass)
    requires requires { pass.tokens(); }
  {
    resize(pass.tokens());
  }
  [[gnu::always_inline]] Index count() const { return memory_.size() / (D > 0 ? D : 1); }

  T* operator[](Index token) { return memory_.data() + token * D; }
  const T* operator[](Index token) const { return memory_.data() + token * D; }
  [[gnu::always_inline]] TokensView<D, T> rows(Rows r) { return view().rows(r); }
  [[gnu::always_inline]] TokensView<D, const T> rows(Rows r) const { return view().rows(r); }
  [[gnu::always_inline]] TokensView<D, T> view() { return {memory_.data(), count()}; }
  [[gnu::always_inline]] TokensView<D, const T> view() const { return {memory_.data(), count()}; }
  [[gnu::always_inline]] operator TokensView<D, T>() { return view(); }
  [[gnu::always_inline]] operator TokensView<D, const T>() const { return view(); }
  [[gnu::always_inline]] operator MatrixView<T>() { return view(); }
  [[gnu::always_inline]] operator MatrixView<const T>() const { return view(); }
  template <int Other, class U>
    requires(Other != D)
  operator TokensView<Other, U>() const {
    return view();
  }  // for its error, which names both widths
  auto eigen() { return view().eigen(); }
  auto eigen() const { return view().eigen(); }
  Buffer<T>& memory() { return memory_; }

 private:
  Buffer<T> memory_;
};
template <int D, class T>
Sum(Tokens<D, T>&) -> Sum<D, T>;

// Row-gathered view of x, no copy: token i is x[index[i]]. Null index: all tokens of x, in order.
template <int D, class T>
struct Gathered {
  In<D, T> x;
  const Index* index = nullptr;
  Index count = 0;

  Gathered(In<D, T> all) : x(all), count(all.count) {}
  Gathered(Out<D, T> all)
    requires(!std::is_const_v<T>)
      : Gathered(In<D, T>(all)) {}
  Gathered(const Tokens<D, T>& all) : Gathered(all.view()) {}
  Gathered(In<D, T> all, const Index* index_, Index count_) : x(all), index{index_}, count(count_) {}
  const T* operator[](Index i) const { return x[index ? index[i] : i]; }
  Gathered rows(Rows r) const { return index ? Gathered{x, index + r.first, r.count} : Gathered(x.rows(r)); }
};

// View of an Eigen matrix as tokens, no copy: [D, tokens] if column-major, [tokens, D] if row-major. Throws
// std::invalid_argument for another width.
template <int D, class Derived>
auto as_tokens(Eigen::PlainObjectBase<Derived>& matrix) {
  constexpr bool row_major = Derived::IsRowMajor;
  const Index found = row_major ? matrix.cols() : matrix.rows();
  check(found == D, "a token of this matrix has ", found, " features, expected ", D,
        row_major ? " columns (row-major: one row per token)" : " rows (column-major: one column per token)");
  return TokensView<D, typename Derived::Scalar>{matrix.data(), row_major ? matrix.rows() : matrix.cols()};
}
template <int D, class Derived>
auto as_tokens(const Eigen::PlainObjectBase<Derived>& matrix) {
  auto view = as_tokens<D>(const_cast<Eigen::PlainObjectBase<Derived>&>(matrix));
  return TokensView<D, const typename Derived::Scalar>{view.data, view.count};
}

// A weight of static shape on the heap, row-major: Weight<T, Out, In> is PyTorch's [out, in], Weight<T, N> a
// vector. It may be empty: "not required" in a gradient, "not held here" in a model. If an extent is zero,
// the model has no such weight (see the specialisation below).
template <class T, int... Extents>
class Weight {
  static_assert(((Extents >= 0) && ...),
                "Weight: an extent is negative: it must be 0 (no such weight) or more");

 public:
  using Scalar = T;
  static constexpr std::array<int, sizeof...(Extents)> shape{Extents...};
  static constexpr Index extent = (Index{1} * ... * Extents);
  static constexpr Index rows = shape.size() > 1 ? shape[0] : 1;
  static constexpr Index cols = rows > 0 ? extent / rows : 0;

  Weight() : memory_(extent) {}
  bool empty() const { return memory_.size() == 0; }
  void release() { memory_.release(); }  // becomes empty
  void allocate() {                      // zeros if it was empty
    if (empty()) memory_.release();
    memory_.resize(extent);
  }

  Buffer<T>& memory() { return memory_; }
  [[gnu::always_inline]] Index size() const { return memory_.size(); }
  [[gnu::always_inline]] T* data() { return memory_.data(); }
  [[gnu::always_inline]] const T* data() const { return memory_.data(); }
  T& operator[](Index i) { return memory_[i]; }
  const T& operator[](Index i) const { return memory_[i]; }
  T* begin() { return memory_.begin(); }
  T* end() { return memory_.end(); }
  const T* begin() const { return memory_.begin(); }
  const T* end() const { return memory_.end(); }
  [[gnu::always_inline]] operator MatrixView<T>() { return {data(), empty() ? 0 : rows, cols, cols}; }
  [[gnu::always_inline]] operator MatrixView<const T>() const {
    return {data(), empty() ? 0 : rows, cols, cols};
  }

  // [rows, cols]; a vector is one row.
  auto eigen() { return EigenMap<T, EigenRowMajor<T>>(data(), empty() ? 0 : rows, cols); }
  auto eigen() const { return EigenMap<const T, EigenRowMajor<T>>(data(), empty() ? 0 : rows, cols); }

  // In a gradient: whether something was added since set_zero. Used for Kind::sparse weights, which only some
  // tokens use: see EmptyExpert of Adam.
  bool touched = false;

 private:
  Buffer<T> memory_;
};

// A weight that the model does not have: always empty, without size under [[no_unique_address]], because each
// expert has one.
template <class T, int... Extents>
  requires((Extents == 0) || ...)
class Weight<T, Extents...> {
 public:
  using Scalar = T;
  static constexpr std::array<int, sizeof...(Extents)> shape{Extents...};
  static constexpr Index extent = 0, rows = shape.size() > 1 ? shape[0] : 1, cols = 0;
  static constexpr bool touched = false;

  bool empty() const { return true; }
  void release() {}
  void allocate() {}

  Index size() const { return 0; }
  T* data() { return nullptr; }
  const T* data() const { return nullptr; }
  T& operator[](Index i) { return data()[i]; }  // only has to compile
  const T& operator[](Index i) const { return data()[i]; }
  T* begin() { return nullptr; }
  T* end() { return nullptr; }
  const T* begin() const { return nullptr; }
  const T* end() const { return nullptr; }
  operator MatrixView<T>() { return {}; }
  operator MatrixView<const T>() const { return {}; }
  auto eigen() { return EigenMap<T, EigenRowMajor<T>>(nullptr, 0, 0); }
  auto eigen() const { return EigenMap<const T, EigenRowMajor<T>>(nullptr, 0, 0); }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
