#pragma once
// A pseudo-random permutation that needs no memory, for orders without replacement.
#include <moegpt/core/random.hpp>

#include <algorithm>
#include <bit>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// A permutation of 0 .. size - 1, of integers only, so the same on every machine. A Feistel network permutes
// the numbers of 2h bits, at most 4 size of them:
//   (L, R) -> (R, L xor F_r(R)),   F_r(R) = the upper h bits of a hash of key, r and R,   r = 0 .. 7
// Its result is permuted again until it is below size (cycle walking; Black, Rogaway 2002), 4 times on
// average at most.
struct Permutation {
  std::uint64_t size;  // 1 .. 2^62
  Key key;

  // i < size. Throws std::invalid_argument for another i.
  std::uint64_t operator()(std::uint64_t i) const {
    check(i < size && size <= std::uint64_t{1} << 62, "a permutation of ", size, " numbers has no number ",
          i);
    const int h = std::max(1, (static_cast<int>(std::bit_width(size - 1)) + 1) / 2);
    do i = network(i, h);
    while (i >= size);
    return i;
  }

 private:
  std::uint64_t network(std::uint64_t i, int h) const {
    const std::uint64_t mask = (std::uint64_t{1} << h) - 1;
    std::uint64_t left = i >> h, right = i & mask;
    for (std::uint64_t round = 0; round < 8; ++round)
      left = std::exchange(right, left ^ key.bits(round << 32 | right) >> (64 - h));
    return left << h | right;
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
