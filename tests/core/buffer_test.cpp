#include <moegpt/core/buffer.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <limits>

using namespace moegpt;

TEST_CASE("a buffer that shrinks and grows again keeps its memory and its elements") {
  Buffer<int> buffer(10);
  const int* memory = buffer.data();
  buffer.fill(4);
  buffer.resize(3);
  CHECK(buffer.size() == 3);
  buffer.resize(10);
  CHECK(buffer.data() == memory);
  CHECK(buffer[9] == 4);
  buffer.resize(11);
  CHECK(buffer[10] == 0);  // new memory is zero
  buffer.release();
  CHECK(buffer.size() == 0);
  CHECK(buffer.data() == nullptr);
}

TEST_CASE(
    "a buffer of a negative size, or of more bytes than there are addresses, is rejected and stays as it "
    "was") {
  Buffer<double> buffer(3);
  buffer[2] = 7;
  constexpr Index most = std::numeric_limits<Index>::max();
  for (const Index size : {Index{-1}, std::numeric_limits<Index>::min(), most / 8 + 1, most}) {
    CAPTURE(size);
    CHECK(refusal([&] { buffer.resize(size); }).find("a buffer of " + std::to_string(size)) !=
          std::string::npos);
    CHECK(buffer.size() == 3);
    CHECK(buffer[2] == 7);
  }
  CHECK_FALSE(refusal([] { Buffer<char>(-5); }).empty());
}
