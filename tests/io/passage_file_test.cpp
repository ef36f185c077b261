// Files of passage stores: what is saved is loaded, and what is no store of passages is rejected.
#include <moegpt/io/passage_file.hpp>
#include <moegpt/retrieval/retriever.hpp>

#include "support.hpp"

using namespace moegpt;

namespace {

PassageStore small_store() {
  HashedNGrams retriever{.features = 3};
  PassageStore store(3);
  add_passage(store, retriever, std::vector{1, 2, 3}, 4);
  add_passage(store, retriever, std::vector{5}, -1);
  return store;
}

// A file of these tensors.
struct Parts {
  std::vector<int> ids{1, 2, 3, 5}, sources{4, -1};
  std::vector<std::int64_t> offsets{0, 3, 4};
  std::vector<float> vectors{1, 0, 0, 0, 1, 0};
  std::vector<Index> shape{2, 3};
  std::string version = "1";

  std::string rejection(int vocab = 6) const {
    TemporaryFolder folder;
    save_safetensors(folder / "p",
                     {{"ids", DType::i32, {std::ssize(ids)}, ids.data()},
                      {"offsets", DType::i64, {std::ssize(offsets)}, offsets.data()},
                      {"sources", DType::i32, {std::ssize(sources)}, sources.data()},
                      {"vectors", DType::f32, shape, vectors.data()}},
                     {{"moegpt_passages", version}});
    return error_of([&] { load_passages(folder / "p", vocab); });
  }
};

}  // namespace

TEST_CASE("a store of passages is loaded as it was saved, to the bit") {
  TemporaryFolder folder;
  const PassageStore store = small_store();
  save_passages(folder / "p", store);
  const PassageStore loaded = load_passages(folder / "p", 6);
  CHECK(loaded.dim() == 3);
  CHECK(loaded.ids() == store.ids());
  CHECK(loaded.offsets() == store.offsets());
  CHECK(loaded.sources() == store.sources());
  CHECK(loaded.vectors() == store.vectors());
  CHECK(has(error_of([&] { save_passages(folder / "q", PassageStore(2)); }), "the store is empty"));
}

TEST_CASE("a file of passages that is cut short anywhere is rejected") {
  TemporaryFolder folder;
  save_passages(folder / "p", small_store());
  const std::string bytes = get(folder / "p");
  for (std::size_t length = 0; length < bytes.size(); ++length)
    if (error_of([&] { load_passages(parse_safetensors(bytes.substr(0, length), "p"), 6); }).empty())
      FAIL("accepted " << length << " of " << bytes.size() << " bytes");
}

TEST_CASE("tensors that are no store of passages are rejected with what is wrong") {
  CHECK(Parts{}.rejection().empty());
  CHECK(has(Parts{}.rejection(5), "id 3 is 5, expected 0 .. 4"));
  CHECK(has(Parts{.ids = {1, -2, 3, 5}}.rejection(), "id 1 is -2"));
  CHECK(has(Parts{.ids = {1, 2, 3}}.rejection(), "offsets 0 .. 4, expected 0 .. 3"));
  CHECK(has(Parts{.offsets = {1, 3, 4}}.rejection(), "offsets 1 .. 4, expected 0 .. 4"));
  CHECK(has(Parts{.offsets = {0, 0, 4}}.rejection(), "passage 0 is ids 0 .. -1"));
  CHECK(has(Parts{.offsets = {0, std::int64_t{1} << 62, 4}}.rejection(), "offsets must rise"));
  CHECK(has(Parts{.offsets = {0, -7, 4}}.rejection(), "offsets must rise"));
  CHECK(has(Parts{.offsets = {0, 4}}.rejection(), "expected one of each for every passage"));
  CHECK(has(Parts{.sources = {1}}.rejection(), "expected one of each for every passage"));
  CHECK(has(Parts{.shape = {3, 2}}.rejection(), "expected one of each for every passage"));
  CHECK(has(Parts{.shape = {6}}.rejection(), "expected F32 with 2 dimensions"));
  CHECK(has(Parts{.vectors = {1, 0, 0, 0, std::nanf(""), 0}}.rejection(), "passage 1"));
  CHECK(has(Parts{.version = "2"}.rejection(), "expected 1"));
}

TEST_CASE("safetensors files of something else are no store of passages") {
  TemporaryFolder folder;
  const float one = 1;
  save_safetensors(folder / "p", {{"w", DType::f32, {1}, &one}});
  CHECK(has(error_of([&] { load_passages(folder / "p", 6); }), "it is no store of passages"));
  save_safetensors(folder / "p", {{"w", DType::f32, {1}, &one}}, {{"moegpt_passages", "1"}});
  CHECK(has(error_of([&] { load_passages(folder / "p", 6); }), "has 1 tensors, expected 4"));
}
