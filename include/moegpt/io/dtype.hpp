#pragma once
// Element types of safetensors files, and conversion of the real ones to T.
#include <moegpt/core/bf16.hpp>

#include <bit>
#include <cstdint>
#include <string_view>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Names as in safetensors. In memory moegpt uses f32 and f64, and bf16 and i8 for the
// weights of inference.
enum class DType {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64
};

struct DTypeFacts {
  std::string_view name;
  int bits;
};

// In the order of DType, which is that of the reference implementation: by size.
inline constexpr std::array<DTypeFacts, 22> dtype_facts{{
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};
inline constexpr DTypeFacts facts(DType dtype) { return dtype_facts[static_cast<std::size_t>(dtype)]; }

template <class T>
constexpr DType dtype_of() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, BF16>,
                "weights in files are float, double or BF16, or INT8 with scales");
  return sizeof(T) == 2 ? DType::bf16 : sizeof(T) == 4 ? DType::f32 : DType::f64;
}

inline constexpr bool is_real(DType dtype) {
  return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

// Tests the exponent's bits, which -ffast-math cannot remove.
inline bool is_finite(float x) { return (std::bit_cast<std::uint32_t>(x) & 0x7f800000u) != 0x7f800000u; }
inline bool is_finite(double x) { return (std::bit_cast<std::uint64_t>(x) >> 52 & 0x7ffu) != 0x7ffu; }

// f(i, number) for the `count` little-endian elements of a real dtype at `bytes`, which may be unaligned.
template <class T, class F>
void for_each_number(DType dtype, const char* bytes, Index count, F&& f) {
  auto read_as = [&](auto number) {
    for (Index i = 0; i < count; ++i) {
      std::memcpy(static_cast<void*>(&number), bytes + i * static_cast<Index>(sizeof number), sizeof number);
      f(i, static_cast<T>(number));
    }
  };
  static_assert(std::endian::native == std::endian::little, "files hold little-endian numbers");
  if (dtype == DType::f64) read_as(double{});
  if (dtype == DType::f32) read_as(float{});
  if (dtype == DType::f16) read_as(Eigen::half{});
  if (dtype == DType::bf16) read_as(BF16{});
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
