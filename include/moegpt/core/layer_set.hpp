#pragma once
// LayerSet: which layers of a model something applies to, as a constant of its type.
#include <moegpt/core/build.hpp>

#include <concepts>
#include <cstdint>
#include <initializer_list>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// A set of layer indices, from 0: a list, {1, 4}, or a predicate, [](int layer) { return layer % 3 == 0; }.
// A model does not compile if the list contains an index outside 0 .. layers - 1.
struct LayerSet {
  static constexpr int most = 256;
  bool given = false;
  int lowest = 0, highest = -1;  // bounds of the listed indices
  std::uint64_t bits[most / 64] = {};

  constexpr LayerSet() = default;
  constexpr LayerSet(std::initializer_list<int> layers) : given(true) {
    for (int layer : layers) {
      if (layer < lowest) lowest = layer;
      if (layer > highest) highest = layer;
      if (layer >= 0 && layer < most) insert(layer);
    }
  }
  template <std::predicate<int> Predicate>
  constexpr LayerSet(Predicate holds) : given(true) {
    for (int layer = 0; layer < most; ++layer)
      if (holds(layer)) insert(layer);
  }
  constexpr bool has(int layer) const {
    return layer >= 0 && layer < most && (bits[layer / 64] >> (layer % 64) & 1) != 0;
  }
  bool operator==(const LayerSet&) const = default;

 private:
  constexpr void insert(int layer) { bits[layer / 64] |= std::uint64_t{1} << (layer % 64); }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
