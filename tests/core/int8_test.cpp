#include <moegpt/core/int8.hpp>
#include <moegpt/core/random.hpp>

#include "support/catch.hpp"

#include <vector>

using namespace moegpt;

namespace {

constexpr int rows = 3, cols = 70;  // blocks of 32, 32 and 6
using Matrix = Weight<INT8, rows, cols>;

std::vector<float> numbers(std::uint64_t seed) {
  std::vector<float> x(rows * cols);
  Rng rng(seed);
  for (float& v : x) v = static_cast<float>(rng.normal());
  return x;
}
void fill(Matrix& w, const std::vector<float>& x) {
  for (Index i = 0; i < rows; ++i) write_row(Int8View<std::int8_t>(w), i, x.data() + i * cols);
}

struct Tree {
  Weight<float, 2> bias;
  Matrix weight;
  static constexpr auto fields() {
    return Fields{Field{"bias", &Tree::bias}, Field{"weight", &Tree::weight}};
  }
};

}  // namespace

TEST_CASE(
    "a weight is stored as an integer of -127 .. 127 times its block's scale, max / 127, with half of it as "
    "error") {
  Matrix w;
  const auto x = numbers(1);
  fill(w, x);
  const ConstInt8View view = std::as_const(w);
  for (Index i = 0; i < rows; ++i) {
    float row[cols];
    read_row(view, i, row);
    for (Index first = 0; first < cols; first += 32) {
      const Index end = std::min<Index>(first + 32, cols);
      float most = 0;
      for (Index k = first; k < end; ++k)
        most = std::max(most, std::abs(x[static_cast<std::size_t>(i * cols + k)]));
      const float scale = view.scales_of(first / 32)[i];
      CHECK(scale == most / 127);
      for (Index k = first; k < end; ++k) {
        const float number = x[static_cast<std::size_t>(i * cols + k)];
        CHECK(row[k] == static_cast<float>(view[i][k]) * scale);
        CHECK(row[k] == w[i * cols + k]);
        CHECK(std::abs(row[k] - number) <= scale * 0.50001f);
        CHECK(std::abs(int(view[i][k])) <= 127);
        if (std::abs(number) == most) CHECK(std::abs(int(view[i][k])) == 127);
      }
    }
  }
}

TEST_CASE("a block of zeros, or of numbers too small for a normal scale, is stored as zeros") {
  Matrix w;
  auto x = numbers(2);
  for (std::size_t k = 0; k < 32; ++k) x[k] = k % 2 ? 0x1p-126f : 0;
  fill(w, x);
  for (Index k = 0; k < 32; ++k) CHECK(w[k] == 0);
  CHECK(w[32] != 0);
}

TEST_CASE("views of rows and of whole blocks of columns have their scales") {
  Matrix w;
  fill(w, numbers(3));
  const ConstInt8View part = ConstInt8View(std::as_const(w)).rows_at({1, 2}).cols_at(32, 38);
  for (Index i = 0; i < 2; ++i)
    for (Index k = 0; k < 38; ++k) CHECK(part.at(i, k) == w[(i + 1) * cols + k + 32]);
}

TEST_CASE("a walk visits integers with scales as it does other weights") {
  Tree tree, copy;
  fill(tree.weight, numbers(4));
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
  const Tree moved = std::move(copy);
  CHECK((copy.weight.empty() && moved.weight[5] != 0));
  CHECK(first_not_finite(moved) == "");
  Weight<INT8, 0, 4> none;
  CHECK(none.empty());
}
