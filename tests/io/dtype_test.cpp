#include <moegpt/io/dtype.hpp>

#include "support.hpp"

#include <limits>

using namespace moegpt;

namespace {

double first_number(DType dtype, const std::string& bytes) {
  double result = -1;
  for_each_number<double>(dtype, bytes.data(), 1, [&](Index, double number) { result = number; });
  return result;
}

}  // namespace

TEST_CASE("the table has each type's name at its enumerator") {
  CHECK(facts(DType::boolean).name == "BOOL");
  CHECK(facts(DType::f8_e5m2fnuz).name == "F8_E5M2FNUZ");
  CHECK(facts(DType::bf16).name == "BF16");
  CHECK(facts(DType::f32).name == "F32");
  CHECK(facts(DType::f64).name == "F64");
  CHECK(facts(DType::u64).name == "U64");
}

TEST_CASE("elements are read as little-endian") {
  CHECK(first_number(DType::f64, std::string("\0\0\0\0\0\0\xf8\xbf", 8)) == -1.5);
  CHECK(first_number(DType::f32, std::string("\0\0\xc0\x3f", 4)) == 1.5);
  CHECK(first_number(DType::f16, std::string("\x00\x3e", 2)) == 1.5);
  CHECK(first_number(DType::f16, std::string("\x01\x00", 2)) == 0x1p-24);
  CHECK(first_number(DType::f16, std::string("\xff\xfb", 2)) == -65504);
  CHECK(first_number(DType::bf16, std::string("\xc0\xbf", 2)) == -1.5);
}

TEST_CASE("only NaN and infinity are not finite") {
  CHECK(is_finite(0.f));
  CHECK(is_finite(std::numeric_limits<float>::lowest()));
  CHECK(is_finite(std::numeric_limits<double>::max()));
  CHECK(is_finite(std::numeric_limits<double>::denorm_min()));
  CHECK_FALSE(is_finite(-std::numeric_limits<float>::infinity()));
  CHECK_FALSE(is_finite(std::numeric_limits<float>::quiet_NaN()));
  CHECK_FALSE(is_finite(std::numeric_limits<double>::infinity()));
  CHECK_FALSE(is_finite(std::numeric_limits<double>::quiet_NaN()));
}
