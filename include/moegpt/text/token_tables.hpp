#pragma once
// Hash tables of byte-pair encoding: from byte strings to ids, and from pairs of ids to merges. They are open
// addressing in one array, at most half of it taken: lookups take most of the time of encoding.
#include <moegpt/core/build.hpp>

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {

// A hash table from nonempty byte strings to ids, for lookups. The strings are stored by the caller.
class StringTable {
 public:
  void reserve(std::size_t strings) {
    std::size_t size = 16;
    while (size < 2 * strings) size *= 2;
    slots_.assign(size, {});
  }
  // Does nothing if the text is there already.
  void insert(std::string_view text, int id) {
    const std::uint64_t h = hash(text);
    Slot& slot = slots_[index_of(text, h)];
    if (slot.id < 0) slot = {h, text, id};
  }
  // `hash` is that of the text; -1: none.
  int find(std::string_view text, std::uint64_t hash) const { return slots_[index_of(text, hash)].id; }

  static std::uint64_t hash(std::string_view text) {
    std::uint64_t h = text.size() * 0x9e3779b97f4a7c15u;
    const char* at = text.data();
    std::size_t left = text.size();
    const auto mix = [&](std::uint64_t word) {
      h = (h ^ word) * 0xd6e8feb86659fd93u;
      h ^= h >> 32;
    };
    for (; left >= 8; at += 8, left -= 8) {
      std::uint64_t word;
      std::memcpy(&word, at, 8);
      mix(word);
    }
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < left; ++i) word = word << 8 | static_cast<unsigned char>(at[i]);
    mix(word);
    return h;
  }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    std::string_view text{};
    int id = -1;
  };
  std::size_t index_of(std::string_view text, std::uint64_t hash) const {
    std::size_t i = hash & (slots_.size() - 1);
    while (slots_[i].id >= 0 && (slots_[i].hash != hash || slots_[i].text != text))
      i = (i + 1) & (slots_.size() - 1);
    return i;
  }
  std::vector<Slot> slots_ = std::vector<Slot>(16);  // a power of two, at most half of it taken
};

// A hash table from pairs of ids to the index of their merge.
class PairTable {
 public:
  void reserve(std::size_t pairs) {
    std::size_t size = 16;
    while (size < 2 * pairs) size *= 2;
    slots_.assign(size, {});
  }
  // False if the pair is there already.
  bool insert(int left, int right, int index) {
    Slot& slot = slots_[index_of(key_of(left, right))];
    if (slot.index >= 0) return false;
    slot = {key_of(left, right), index};
    return true;
  }
  int find(int left, int right) const { return slots_[index_of(key_of(left, right))].index; }  // -1: none

 private:
  struct Slot {
    std::uint64_t key = 0;
    int index = -1;
  };
  static std::uint64_t key_of(int left, int right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  }
  std::size_t index_of(std::uint64_t key) const {
    const std::uint64_t h = key * 0x9e3779b97f4a7c15u;
    std::size_t i = (h ^ h >> 32) & (slots_.size() - 1);
    while (slots_[i].index >= 0 && slots_[i].key != key) i = (i + 1) & (slots_.size() - 1);
    return i;
  }
  std::vector<Slot> slots_ = std::vector<Slot>(16);
};

}  // namespace detail

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
