#pragma once
// Number policy of a model or layer: the scalar of its arithmetic and the storage of its matrices. A plain
// float or double is both. Stored is for inference: matrices are in panels, which products with few rows read
// in the order of memory, and their elements may be narrower, which products widen.
#include <moegpt/core/panels.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Arithmetic in T with matrices in panels of S: Stored<float>, Stored<float, BF16>, Stored<float, INT8>.
template <class T, class S = T>
struct Stored {
  static_assert(std::same_as<T, float> &&
                    (std::same_as<S, float> || std::same_as<S, BF16> || std::same_as<S, INT8>),
                "Stored: write Stored<float>, Stored<float, BF16> or Stored<float, INT8>");
  using Scalar = T;
  using Storage = Panels<S>;
};

namespace detail {
template <class N>
struct NumberOf {
  using Scalar = N;
  using Storage = N;
};
template <class T, class S>
struct NumberOf<Stored<T, S>> : Stored<T, S> {};
}  // namespace detail
template <class N>
using ScalarOf = typename detail::NumberOf<N>::Scalar;
template <class N>
using StorageOf = typename detail::NumberOf<N>::Storage;
template <class N>
concept NumberPolicy = std::floating_point<ScalarOf<N>>;

// What kernels read of a matrix stored as S.
template <class S>
struct StoredViewOf {
  using type = MatrixView<const S>;
};
template <class S>
struct StoredViewOf<Panels<S>> {
  using type = ConstPanelsView<S>;
};
template <class S>
using StoredView = typename StoredViewOf<S>::type;

// Fails to compile for Stored<...>. The first statement of every backward.
template <class N>
consteval void check_trains() {
  static_assert(std::same_as<ScalarOf<N>, StorageOf<N>>,
                "backward: weights in panels, Stored<...>, are for inference: train a model of the same "
                "Config with float in place of Stored<...>, then convert it");
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
