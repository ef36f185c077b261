#include <moegpt/core/number.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {

template <class N>
struct Map {
  using Scalar = ScalarOf<N>;
  Weight<StorageOf<N>, 2, 3> weight;
  Weight<Scalar, 2> bias;
  static constexpr auto fields() { return Fields{Field{"weight", &Map::weight}, Field{"bias", &Map::bias}}; }
};
template <class N>
struct Maps {
  std::array<Map<N>, 2> maps;
  static constexpr auto fields() { return Fields{Field{"maps", &Maps::maps}}; }
};

}  // namespace

TEST_CASE("a plain number is its own storage, Stored has both apart") {
  CHECK(std::same_as<ScalarOf<double>, double>);
  CHECK(std::same_as<StorageOf<float>, float>);
  CHECK(std::same_as<ScalarOf<Stored<float, INT8>>, float>);
  CHECK(std::same_as<StorageOf<Stored<float>>, Panels<float>>);
  CHECK(std::same_as<StorageOf<Stored<float, BF16>>, Panels<BF16>>);
  CHECK((NumberPolicy<float> && NumberPolicy<Stored<float, INT8>> && !NumberPolicy<int> &&
         !NumberPolicy<BF16>));
  CHECK(std::same_as<StoredView<float>, MatrixView<const float>>);
  CHECK(std::same_as<StoredView<Panels<INT8>>, ConstPanelsView<INT8>>);
}

TEMPLATE_TEST_CASE("a walk meets matrices in storage and other weights in the scalar, under one path each",
                   "", float, double, Stored<float>, (Stored<float, BF16>), (Stored<float, INT8>)) {
  using N = TestType;
  CHECK(std::same_as<walk::Scalar<Maps<N>>, ScalarOf<N>>);
  Maps<N> tree;
  std::string paths;
  int matrices = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& w) {
        using Found = typename std::remove_cvref_t<decltype(w)>::Scalar;
        paths += path + " ";
        const bool matrix = w.shape.size() == 2;
        matrices += matrix;
        CHECK(std::same_as<Found, StorageOf<N>> == (matrix || std::same_as<StorageOf<N>, ScalarOf<N>>));
        const std::vector<Widened<Found>> row(static_cast<std::size_t>(w.cols), 1);
        for (Index i = 0; i < w.rows; ++i) write_row(w.view(), i, row.data());
      },
      tree);
  CHECK(paths == "maps.0.weight maps.0.bias maps.1.weight maps.1.bias ");
  CHECK(matrices == 2);
  for_each_weight(
      [](const auto& w) {
        for (Index i = 0; i < w.size(); ++i) CHECK(w[i] == 1);
      },
      std::as_const(tree));
}
