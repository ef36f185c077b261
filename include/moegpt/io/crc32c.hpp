#pragma once
// CRC-32C (Castagnoli), the checksum of iSCSI (RFC 3720), of checkpoints and of TensorBoard's event files.
// Every change of up to 32 consecutive bits is detected; any other is missed with probability 2^-32.
#include <moegpt/core/build.hpp>

#include <array>
#include <cstdint>
#include <string_view>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace crc32c {

// table[k][b]: the remainder of byte b followed by k zero bytes. Eight bytes are looked up at a time
// (slicing-by-8: Kounavis, Berry 2005).
using Table = std::array<std::array<std::uint32_t, 256>, 8>;
consteval Table make_table() {
  Table table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t rest = byte;
    for (int bit = 0; bit < 8; ++bit) rest = (rest >> 1) ^ (rest & 1 ? 0x82f63b78u : 0);
    table[0][byte] = rest;
  }
  for (std::size_t k = 1; k < 8; ++k)
    for (std::size_t byte = 0; byte < 256; ++byte)
      table[k][byte] = (table[k - 1][byte] >> 8) ^ table[0][table[k - 1][byte] & 0xff];
  return table;
}
inline constexpr Table table = make_table();

}  // namespace crc32c

// The checksum of bytes that come in pieces.
class Crc32c {
 public:
  void add(std::string_view bytes) {
    const auto* b = reinterpret_cast<const unsigned char*>(bytes.data());
    std::size_t count = bytes.size();
    const auto& t = crc32c::table;
    std::uint32_t rest = rest_;
    for (; count >= 8; count -= 8, b += 8) {
      rest ^= b[0] | std::uint32_t{b[1]} << 8 | std::uint32_t{b[2]} << 16 | std::uint32_t{b[3]} << 24;
      rest = t[7][rest & 0xff] ^ t[6][rest >> 8 & 0xff] ^ t[5][rest >> 16 & 0xff] ^ t[4][rest >> 24] ^
             t[3][b[4]] ^ t[2][b[5]] ^ t[1][b[6]] ^ t[0][b[7]];
    }
    for (; count > 0; --count, ++b) rest = (rest >> 8) ^ t[0][(rest ^ *b) & 0xff];
    rest_ = rest;
  }
  std::uint32_t value() const { return ~rest_; }

 private:
  std::uint32_t rest_ = ~std::uint32_t{0};
};

inline std::uint32_t crc32c_of(std::string_view bytes) {
  Crc32c checksum;
  checksum.add(bytes);
  return checksum.value();
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
