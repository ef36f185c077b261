// The memory of a cache moves with its sequences.
#include <moegpt/model/decoder_cache.hpp>

#include "../support/catch.hpp"
#include "../support/refusal.hpp"

#include <vector>

using namespace moegpt;

namespace {

constexpr Config config{.vocab = 3, .context = 2, .dim = 2, .layers = 2, .heads = 1};
using Cache = DecoderCache<config, TrunkPart{.memory_dim = 4, .memory_context = 3}>;

void fill(Cache& cache, Index sequence, Index length, float value) {
  cache.set_memory(sequence, length, [&](int layer, auto keys, auto values) {
    for (Index n = 0; n < keys.count; ++n) *keys[n] = value + static_cast<float>(layer), *values[n] = value;
  });
}
// Length and first key of each sequence's memory in layer 1.
std::vector<std::pair<Index, float>> memories(Cache& cache) {
  std::vector<std::pair<Index, float>> found;
  const auto view = cache.at_layer(1);
  for (Index b = 0; b < cache.batch(); ++b)
    found.push_back({view.memory_lengths[b], *view.memory.keys[b * view.memory.capacity]});
  return found;
}

}  // namespace

TEST_CASE("memories of a cache are gathered, copied, added and removed with their sequences") {
  Cache cache(3);
  for (Index b = 0; b < 3; ++b) fill(cache, b, b + 1, static_cast<float>(10 * b));
  using Expected = std::vector<std::pair<Index, float>>;
  CHECK(memories(cache) == Expected{{1, 1}, {2, 11}, {3, 21}});
  cache.gather(std::vector<Index>{2, 0});
  CHECK(memories(cache) == Expected{{3, 21}, {1, 1}});
  CHECK(cache.at_layer(0).memory.keys.count == 2 * 3);
  cache.copy(cache, 0, 1);
  CHECK(memories(cache) == Expected{{3, 21}, {3, 21}});
  cache.resize(3);
  CHECK(cache.memory_length(2) == 0);
  cache.truncate(0, 0);  // of its own positions
  CHECK(cache.memory_length(0) == 3);
  cache.clear_memory(0);
  CHECK(cache.memory_length(0) == 0);
  CHECK(contains(refusal([&] { fill(cache, 0, 4, 1); }), "a memory of 4 tokens, expected at most"));
  CHECK(refusal([&] { fill(cache, 3, 1, 1); }) != "");
}
