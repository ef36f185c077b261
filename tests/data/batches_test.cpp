#include <moegpt/data/batches.hpp>

#include "../support/catch.hpp"

#include <numeric>
#include <set>

using namespace moegpt;

namespace {

// 0, 1, 2, ...: a token says where it stands.
TokenSequence counting(int size) {
  std::vector<std::uint16_t> ids(static_cast<std::size_t>(size));
  std::iota(ids.begin(), ids.end(), std::uint16_t{0});
  return TokenSequence(std::move(ids));
}

std::vector<std::vector<int>> read(Batches& batches, int count) {
  std::vector<std::vector<int>> inputs;
  Batch batch;
  for (int i = 0; i < count; ++i) {
    batches.next(batch);
    inputs.push_back(batch.inputs);
  }
  return inputs;
}

}  // namespace

TEST_CASE("random batches are those of sample_batch with the key of each batch") {
  std::vector<int> ids(500);
  std::iota(ids.begin(), ids.end(), 0);
  Batches batches(counting(500), {.shape = {3, 8}}, Key{5});
  Batch batch, expected{{3, 8}};
  for (int step = 0; step < 4; ++step) {
    batches.next(batch);
    sample_batch(ids, expected, Key{5}.with(Purpose::batch, step));
    CHECK(batch.inputs == expected.inputs);
    CHECK(batch.targets == expected.targets);
    CHECK(batch.starts == expected.starts);
  }
}

TEST_CASE("an epoch of shuffled batches has every window once, and the next epoch has another order") {
  constexpr int windows = 12, length = 4;
  Batches batches(counting(windows * length + 3), {{3, length}, WindowOrder::shuffled}, Key{5});
  REQUIRE(batches.windows_of_epoch() == windows);
  std::vector<std::vector<Index>> epochs;
  Batch batch;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<Index> starts;
    for (int i = 0; i < windows / 3; ++i) {
      batches.next(batch);
      for (std::size_t n = 0; n < batch.inputs.size(); ++n) {
        const Index token = batch.starts[n / length] + static_cast<Index>(n % length);
        CHECK(batch.inputs[n] == token);
        CHECK(batch.targets[n] == token + 1);
      }
      starts.insert(starts.end(), batch.starts.begin(), batch.starts.end());
    }
    const std::set<Index> different(starts.begin(), starts.end());
    CHECK(different.size() == windows);
    for (const Index start : different) CHECK(start % length == 0);
    CHECK(batches.epochs() == epoch + 1);
    epochs.push_back(starts);
  }
  CHECK(epochs[0] != epochs[1]);
  CHECK(epochs[1] != epochs[2]);
}

TEST_CASE("a batch may end one epoch and begin the next, and no window is left out") {
  Batches batches(counting(5 * 4 + 1), {{3, 4}, WindowOrder::shuffled}, Key{5});
  std::vector<Index> starts;
  Batch batch;
  for (int i = 0; i < 5; ++i) {
    batches.next(batch);
    starts.insert(starts.end(), batch.starts.begin(), batch.starts.end());
  }
  for (int epoch = 0; epoch < 3; ++epoch)
    CHECK(std::set<Index>(starts.begin() + 5 * epoch, starts.begin() + 5 * epoch + 5).size() == 5);
}

TEST_CASE("from a cursor on the batches are those that followed it") {
  for (const WindowOrder order : {WindowOrder::random, WindowOrder::shuffled}) {
    const BatchOptions options{{3, 4}, order};
    Batches whole(counting(101), options, Key{9});
    const auto all = read(whole, 40);
    for (const int before : {0, 1, 7, 8, 9, 30}) {
      Batches first(counting(101), options, Key{9}), resumed(counting(101), options, Key{9});
      read(first, before);
      const DataCursor cursor = first.cursor();
      CHECK(cursor == DataCursor{before, 3 * before});
      resumed.seek(cursor);
      const auto rest = read(resumed, 40 - before);
      CHECK(std::equal(rest.begin(), rest.end(), all.begin() + before));
      CHECK(resumed.cursor() == whole.cursor());
    }
  }
}

TEST_CASE("a shuffled order is continued with batches of another size") {
  Batches wide(counting(101), {{6, 4}, WindowOrder::shuffled}, Key{9});
  Batches narrow(counting(101), {{2, 4}, WindowOrder::shuffled}, Key{9});
  const auto first = read(wide, 1).front();
  const auto parts = read(narrow, 3);
  for (std::size_t i = 0; i < 3; ++i) CHECK(std::equal(parts[i].begin(), parts[i].end(), &first[8 * i]));
}

TEST_CASE("with a separator documents are hidden from each other and no target is in another document") {
  TokenSequence ids{std::vector<std::uint8_t>{1, 2, 0, 3, 0, 4, 5, 6, 7}};
  Batches batches(ids, {{1, 8}, WindowOrder::shuffled, 0}, Key{1});
  Batch batch;
  batches.next(batch);
  CHECK(batch.inputs == std::vector<int>{1, 2, 0, 3, 0, 4, 5, 6});
  CHECK(batch.targets == std::vector<int>{2, 0, -1, 0, -1, 5, 6, 7});
  const Index begin[] = {0, 0, 0, 3, 3, 5, 5, 5};
  REQUIRE(batch.documents.size() == 8);
  for (std::size_t n = 0; n < 8; ++n) CHECK(batch.documents[n].first == begin[n]);
  Batches open(ids, {{1, 8}, WindowOrder::shuffled}, Key{1});
  open.next(batch);
  CHECK(batch.documents.empty());
  CHECK(batch.targets == std::vector<int>{2, 0, 3, 0, 4, 5, 6, 7});
}

TEST_CASE("a second batch uses the memory of the first") {
  Batches batches(counting(100), {{3, 4}, WindowOrder::shuffled, 7}, Key{1});
  Batch batch;
  batches.next(batch);
  const int *inputs = batch.inputs.data(), *targets = batch.targets.data();
  const Rows* documents = batch.documents.data();
  batches.next(batch);
  CHECK(batch.inputs.data() == inputs);
  CHECK(batch.targets.data() == targets);
  CHECK(batch.documents.data() == documents);
}

TEST_CASE("too few tokens, sizes that are not positive and a negative cursor are rejected") {
  CHECK_THROWS_WITH(Batches(counting(4), {{1, 4}}, Key{1}),
                    Catch::Contains("need 5 tokens") && Catch::Contains("has 4"));
  CHECK_THROWS_WITH(Batches(counting(9), {{0, 4}}, Key{1}), Catch::Contains("batch = 0"));
  CHECK_THROWS_WITH(Batches(counting(9), {{1, 0}}, Key{1}), Catch::Contains("length = 0"));
  Batches batches(counting(5), {{1, 4}}, Key{1});
  CHECK_THROWS_WITH(batches.seek({-1, 0}), Catch::Contains("-1 batches"));
  CHECK_THROWS_AS(batches.seek({0, -1}), std::invalid_argument);
  CHECK(batches.cursor() == DataCursor{});
}
