#include <moegpt/io/crc32c.hpp>

#include "../support/catch.hpp"

#include <string>

using namespace moegpt;

TEST_CASE("CRC-32C has the values of RFC 3720, appendix B.4") {
  std::string up(32, '\0'), down(32, '\0');
  for (int i = 0; i < 32; ++i) {
    up[static_cast<std::size_t>(i)] = static_cast<char>(i);
    down[static_cast<std::size_t>(i)] = static_cast<char>(31 - i);
  }
  CHECK(crc32c_of(std::string(32, '\0')) == 0x8a9136aau);
  CHECK(crc32c_of(std::string(32, '\xff')) == 0x62a8ab43u);
  CHECK(crc32c_of(up) == 0x46dd794eu);
  CHECK(crc32c_of(down) == 0x113fdb5cu);
  CHECK(crc32c_of("123456789") == 0xe3069283u);
  CHECK(crc32c_of("") == 0);
}

TEST_CASE("the checksum of pieces is that of the whole, wherever it is cut") {
  std::string text;
  for (int i = 0; i < 40; ++i) text += static_cast<char>(i * 37);
  const std::uint32_t whole = crc32c_of(text);
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    Crc32c pieces;
    pieces.add(std::string_view(text).substr(0, cut));
    pieces.add(std::string_view(text).substr(cut));
    CHECK(pieces.value() == whole);
  }
}
