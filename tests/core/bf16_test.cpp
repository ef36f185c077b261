#include <moegpt/core/bf16.hpp>

#include "support/catch.hpp"

#include <cmath>
#include <limits>

using namespace moegpt;

TEST_CASE("every BF16 is widened exactly and comes back as it was") {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    BF16 x;
    x.bits = static_cast<std::uint16_t>(bits);
    const float wide = x;
    wrong += std::bit_cast<std::uint32_t>(wide) != bits << 16;
    wrong += std::isnan(wide) ? !std::isnan(float(BF16(wide))) : BF16(wide).bits != bits;
  }
  CHECK(wrong == 0);
}

TEST_CASE("a float becomes the nearest BF16, of two equally near the even one") {
  CHECK(float(BF16(1.0f)) == 1.0f);
  CHECK(float(BF16(1.0f + 0x1p-8f)) == 1.0f);  // between 1 and 1 + 2^-7: 1 is even
  CHECK(float(BF16(1.0f + 3 * 0x1p-8f)) == 1.0f + 0x1p-6f);
  CHECK(float(BF16(1.0f + 0x1p-8f + 0x1p-20f)) == 1.0f + 0x1p-7f);
  CHECK(float(BF16(-1.0f - 0x1p-8f - 0x1p-20f)) == -1.0f - 0x1p-7f);
  CHECK(std::isinf(float(BF16(std::numeric_limits<float>::max()))));
  CHECK(std::isnan(float(BF16(std::numeric_limits<float>::signaling_NaN()))));
  CHECK(std::isnan(float(BF16(std::bit_cast<float>(0x7f800001u)))));  // whose upper half alone says infinity
  CHECK(std::signbit(float(BF16(-0.0f))));
}

TEST_CASE("rows of BF16 are written and read as floats, rows of other numbers as they are") {
  BF16 stored[6];
  const float from[3] = {1, -2.5f, 3.14159f};
  float to[3];
  write_row(MatrixView<BF16>{stored, 2, 3, 3}, 1, from);
  read_row(MatrixView<const BF16>{stored, 2, 3, 3}, 1, to);
  for (int k = 0; k < 3; ++k) CHECK(to[k] == float(BF16(from[k])));
  double doubles[4] = {}, two[2];
  write_row(MatrixView<double>{doubles, 2, 2, 2}, 1, std::array<double, 2>{0.1, 0.2}.data());
  read_row(MatrixView<const double>{doubles, 2, 2, 2}, 1, two);
  CHECK((doubles[0] == 0 && doubles[2] == 0.1 && two[1] == 0.2));
}
