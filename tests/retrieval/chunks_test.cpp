#include <moegpt/retrieval/chunks.hpp>

#include "support.hpp"

namespace {

constexpr RetrievalShape shape{.chunk = 2, .passages = 2, .length = 3};

// Passage i is {i, i, i, i, i}, its vector that of the text {i}.
PassageStore repeated(HashedNGrams& retriever) {
  PassageStore store(retriever.dim());
  for (int i = 0; i < 6; ++i) {
    std::vector<float> v(static_cast<std::size_t>(retriever.dim()));
    retriever.embed(std::array{i}, v);
    store.add(std::vector<int>(i == 1 ? 1 : 5, i), v, i);
  }
  return store;
}

}  // namespace

TEST_CASE("each complete chunk gets the passages of its own ids, cut to the length of a passage") {
  HashedNGrams retriever;
  const PassageStore store = repeated(retriever);
  ChunkPassages found;
  retrieve_chunks(store, retriever, Batch{{2, 5}, {3, 3, 1, 4, 0, 2, 1, 5, 5, 5}}, shape, found);
  REQUIRE(found.index.size() == 2 * 2 * 2);
  CHECK(found.index[0] == 3);
  CHECK((found.index[2] == 1 && found.index[3] == 4));
  CHECK((found.index[4] == 1 && found.index[5] == 2));
  CHECK(found.index[6] == 5);
  CHECK((found.lengths[0] == 3 && found.lengths[2] == 1));
  CHECK(std::vector<int>(found.ids.begin() + 6, found.ids.begin() + 12) ==
        std::vector<int>{1, 0, 0, 4, 4, 4});
}

TEST_CASE("chunks with padding get no passage, and excluded passages are not found") {
  HashedNGrams retriever;
  const PassageStore store = repeated(retriever);
  const std::vector<int> ids{3, 3, 1, 4, 2, 2, 1, 5};
  const Index lengths[] = {4, 3};
  ChunkPassages found;
  ChunkSearch search;
  retrieve_chunks(store, retriever, ids, {2, 4}, lengths, shape, found, search, {},
                  [](const ChunkOf& c, Index i) { return c.sequence == 0 && c.chunk == 1 && i != 4; });
  CHECK(found.index[0] == 3);
  CHECK((found.index[2] == 4 && found.index[3] == Neighbours::none));
  CHECK(found.index[4] == 2);
  CHECK((found.index[6] == Neighbours::none && found.index[7] == Neighbours::none));
  CHECK((found.lengths[3] == 0 && found.lengths[6] == 0 && found.lengths[7] == 0));
  HashedNGrams other{.features = 8};
  CHECK(contains(refusal([&] { retrieve_chunks(store, other, Batch{{2, 4}, ids}, shape, found); }),
                 "vectors have 8 features, those of the store 256"));
}
