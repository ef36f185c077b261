#include <moegpt/core/panels.hpp>
#include <moegpt/core/random.hpp>

#include "support/catch.hpp"

#include <vector>

using namespace moegpt;

namespace {

constexpr int rows = 150, cols = 70;  // panels of 64, 64 and 32 rows; blocks of 32, 32 and 6 columns
template <class S>
using Matrix = Weight<Panels<S>, rows, cols>;
template <class S>
using View = PanelsView<S, typename Panels<S>::Unit>;

std::vector<float> numbers(std::uint64_t seed) {
  std::vector<float> x(rows * cols);
  Rng rng(seed);
  for (float& v : x) v = static_cast<float>(rng.normal());
  return x;
}
template <class S>
void fill(Matrix<S>& w, const std::vector<float>& x) {
  for (Index i = 0; i < rows; ++i) write_row(View<S>(w), i, x.data() + i * cols);
}

template <class S>
struct Tree {
  Weight<float, 2> bias;
  Matrix<S> weight;
  static constexpr auto fields() {
    return Fields{Field{"bias", &Tree::bias}, Field{"weight", &Tree::weight}};
  }
};

}  // namespace

TEMPLATE_TEST_CASE("rows that are written are read as they are stored, whatever was written around them", "",
                   float, BF16, INT8) {
  using S = TestType;
  Matrix<S> w;
  const auto x = numbers(1);
  fill<S>(w, x);
  for (Index i = 0; i < rows; ++i) {
    float row[cols];
    read_row(ConstPanelsView<S>(std::as_const(w)), i, row);
    for (Index k = 0; k < cols; ++k) {
      const float number = x[static_cast<std::size_t>(i * cols + k)];
      CHECK(row[k] == w[i * cols + k]);
      if constexpr (std::same_as<S, float>) CHECK(row[k] == number);
      if constexpr (std::same_as<S, BF16>) CHECK(row[k] == static_cast<float>(BF16(number)));
    }
  }
}

TEMPLATE_TEST_CASE(
    "the elements of an input are contiguous within a panel, and rows beyond the last are zero", "", float,
    BF16, INT8) {
  using S = TestType;
  Matrix<S> w;
  fill<S>(w, numbers(1));
  const ConstPanelsView<S> view = std::as_const(w);
  for (Index i = 0; i < rows; ++i) {
    CHECK(view.panel_rows(i) == (i < 128 ? 64 : 32));
    CHECK(view.row_in_panel(i) == i % 64);
    for (Index k = 0; k < cols; ++k) CHECK(view.at(i, k) == view.at(i / 64 * 64, k) + i % 64);
  }
  CHECK(w.memory().size() == Panels<S>::units(160, cols));
  CHECK(w.memory().data() + w.memory().size() == view.at(149, cols - 1) + 11);
  for (Index k = 0; k < cols; ++k)
    for (Index i = 1; i <= 10; ++i) CHECK(static_cast<float>(view.at(149, k)[i]) == 0);
}

TEMPLATE_TEST_CASE("views of rows and columns have the elements of their matrix", "", float, BF16, INT8) {
  using S = TestType;
  Matrix<S> w;
  fill<S>(w, numbers(3));
  const auto part = ConstPanelsView<S>(std::as_const(w)).rows_at({48, 90}).cols_at({32, 38});
  CHECK((part.rows == 90 && part.cols == 38));
  const auto corner = part.rows_at({32, 50}).cols_at({32, 6});
  for (Index i = 0; i < 90; ++i)
    for (Index k = 0; k < 38; ++k) CHECK(part.number(i, k) == w[(i + 48) * cols + k + 32]);
  for (Index i = 0; i < 50; ++i)
    for (Index k = 0; k < 6; ++k) CHECK(corner.number(i, k) == w[(i + 80) * cols + k + 64]);
}

TEST_CASE("INT8 is an integer of -127 .. 127 times its block's scale, max / 127, with half of it as error") {
  Matrix<INT8> w;
  const auto x = numbers(1);
  fill<INT8>(w, x);
  const ConstPanelsView<INT8> view = std::as_const(w);
  for (Index i = 0; i < rows; ++i)
    for (Index first = 0; first < cols; first += 32) {
      const Index end = std::min<Index>(first + 32, cols);
      float most = 0;
      for (Index k = first; k < end; ++k)
        most = std::max(most, std::abs(x[static_cast<std::size_t>(i * cols + k)]));
      const float scale = view.scale(i, first);
      CHECK(scale == most / 127);
      for (Index k = first; k < end; ++k) {
        const float number = x[static_cast<std::size_t>(i * cols + k)];
        CHECK(view.number(i, k) == static_cast<float>(*view.at(i, k)) * scale);
        CHECK(std::abs(view.number(i, k) - number) <= scale * 0.50001f);
        CHECK(std::abs(int(*view.at(i, k))) <= 127);
        if (std::abs(number) == most) CHECK(std::abs(int(*view.at(i, k))) == 127);
      }
    }
}

TEST_CASE("a block of zeros, or of numbers too small for a normal scale, is stored as zeros") {
  Matrix<INT8> w;
  auto x = numbers(2);
  for (std::size_t k = 0; k < 32; ++k) x[k] = k % 2 ? 0x1p-126f : 0;
  fill<INT8>(w, x);
  for (Index k = 0; k < 32; ++k) CHECK(w[k] == 0);
  CHECK(w[32] != 0);
}

TEMPLATE_TEST_CASE("a walk visits matrices in panels as it does other weights", "", float, BF16, INT8) {
  using S = TestType;
  Tree<S> tree, copy;
  fill<S>(tree.weight, numbers(4));
  std::string paths;
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& w, const auto& same) {
        paths += path + " ";
        CHECK(w.size() == same.size());
        CHECK(w.shape.back() == w.cols);
      },
      tree, std::as_const(copy));
  CHECK(paths == "bias weight ");
  CHECK(count_weights(tree) == 2 + rows * cols);
  copy = tree;
  CHECK(copy.weight[5] == tree.weight[5]);
  for_each_weight([](auto& w) { w.release(); }, tree);
  CHECK((tree.weight.empty() && tree.bias.empty() && count_weights(tree) == 0));
  for_each_weight([](auto& w) { w.allocate(); }, tree);
  CHECK((!tree.weight.empty() && tree.weight[5] == 0 && copy.weight[5] != 0));
  const Tree<S> moved = std::move(copy);
  CHECK((copy.weight.empty() && moved.weight[5] != 0));
  CHECK(first_not_finite(moved) == "");
  Weight<Panels<S>, 0, 4> none;
  CHECK(none.empty());
}
