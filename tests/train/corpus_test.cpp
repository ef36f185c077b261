#include <moegpt/train/corpus.hpp>

#include "../support/catch.hpp"
#include "../support/temporary_folder.hpp"

#include <cstdio>
#include <numeric>

using namespace moegpt;

namespace {

template <class F>
std::string refusal(F f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

struct TemporaryFile {
  TemporaryFolder folder;
  std::string path = (folder / "corpus.txt").string();
  void write(std::string_view text) const {
    std::FILE* file = std::fopen(path.c_str(), "wb");
    REQUIRE(file != nullptr);
    std::fwrite(text.data(), 1, text.size(), file);
    std::fclose(file);
  }
};

// 0, 1, 2, ...: a token says where it stands.
std::vector<int> counting(int size) {
  std::vector<int> tokens(static_cast<std::size_t>(size));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

}  // namespace

TEST_CASE("a file is read byte for byte, also when it is longer than one piece") {
  const TemporaryFile file;
  std::string text("a\r\n\0b", 5);
  while (text.size() < 200000) text += "moegpt \xff\n";
  file.write(text);
  CHECK(read_text(file.path) == text);
}

TEST_CASE("a missing file, a directory and an empty file are rejected by name") {
  const TemporaryFile file;
  const std::string missing = refusal([&] { read_text(file.path); });
  CHECK(contains(missing, file.path));
  CHECK(contains(missing, "No such file"));
  file.write("");
  const std::string empty = refusal([&] { read_text(file.path); });
  CHECK(contains(empty, file.path));
  CHECK(contains(empty, "empty"));
  const std::string place = file.folder.path.string();
  const std::string directory = refusal([&] { read_text(place); });
  CHECK(contains(directory, "'" + place + "'"));
  CHECK(contains(directory, "s a directory"));
}

TEST_CASE("a text is split by position and nothing is lost") {
  const std::string text = "0123456789abcdefghi";  // 19 tokens, 0.9 * 19 = 17.1
  const Corpus corpus = split_corpus(text, Tokenizer::bytes());
  CHECK(corpus.train.size() == 17);
  CHECK(corpus.tokenizer.decode(corpus.train) + corpus.tokenizer.decode(corpus.val) == text);
  CHECK(split_corpus(text, Tokenizer::bytes(), 0.5).train.size() == 9);
  CHECK(split_corpus(text, Tokenizer::bytes(), 1).val.empty());
}

TEST_CASE("a text is split in tokens, not in bytes") {
  const std::string text = "ääääääääää";
  const Corpus corpus = split_corpus(text, Tokenizer::characters(text));
  CHECK(corpus.train.size() == 9);
  CHECK(corpus.val == std::vector<int>{0});
}

TEST_CASE("an empty text, a fraction that is none and unknown characters are rejected") {
  CHECK(contains(refusal([] { split_corpus("", Tokenizer::bytes()); }), "empty"));
  for (const double fraction : {0.0, -0.1, 1.1, std::nan("")})
    CHECK(contains(refusal([&] { split_corpus("abc", Tokenizer::bytes(), fraction); }), "(0, 1]"));
  CHECK(contains(refusal([] { split_corpus("abc", Tokenizer::characters("ab")); }), "'c'"));
}

TEST_CASE("a batch's rows are windows of the tokens and its targets are one later") {
  const std::vector<int> tokens = counting(50);
  Batch batch{.shape = {6, 7}};
  sample_batch(tokens, batch, Key{5});
  REQUIRE(batch.inputs.size() == 42);
  REQUIRE(batch.targets.size() == 42);
  REQUIRE(batch.starts.size() == 6);
  for (int i = 0; i < 42; ++i) {
    CHECK(batch.inputs[i] == batch.starts[i / 7] + i % 7);
    CHECK(batch.targets[i] == batch.inputs[i] + 1);
  }
}

TEST_CASE("a batch depends on its key, and a row not on the number of rows") {
  const std::vector<int> tokens = counting(1000);
  const auto starts = [&](Index rows, Key key) {
    Batch batch{.shape = {rows, 5}};
    sample_batch(tokens, batch, key);
    return batch.starts;
  };
  const Key seed{7};
  const std::vector<Index> four = starts(4, seed.with(Purpose::batch, 1));
  CHECK(starts(4, seed.with(Purpose::batch, 1)) == four);
  CHECK(starts(4, seed.with(Purpose::batch, 2)) != four);
  std::vector<Index> nine = starts(9, seed.with(Purpose::batch, 1));
  nine.resize(4);
  CHECK(nine == four);
}

TEST_CASE("every start that fits is equally likely, the first and the last included") {
  const std::vector<int> tokens = counting(14);  // length 4: starts 0 to 9
  Batch batch{.shape = {20000, 4}};
  sample_batch(tokens, batch, Key{11});
  std::vector<int> count(10);
  for (const Index start : batch.starts) ++count.at(static_cast<std::size_t>(start));
  // 2000 expected, standard deviation sqrt(20000 * 0.1 * 0.9) = 42; five of them.
  for (const int c : count) CHECK(std::abs(c - 2000) < 212);
}

TEST_CASE("the shortest possible text has one window") {
  const std::vector<int> tokens = counting(6);
  Batch batch{.shape = {3, 5}};
  sample_batch(tokens, batch, Key{1});
  CHECK(batch.starts == std::vector<Index>{0, 0, 0});
  CHECK(batch.targets.back() == 5);
}

TEST_CASE("a second batch of the same size uses the memory of the first") {
  const std::vector<int> tokens = counting(100);
  Batch batch{.shape = {4, 8}};
  sample_batch(tokens, batch, Key{1});
  const int *inputs = batch.inputs.data(), *targets = batch.targets.data();
  const Index* starts = batch.starts.data();
  sample_batch(tokens, batch, Key{2});
  CHECK(batch.inputs.data() == inputs);
  CHECK(batch.targets.data() == targets);
  CHECK(batch.starts.data() == starts);
}

TEST_CASE("a batch or length of zero and a text shorter than a window are rejected with the numbers") {
  const std::vector<int> tokens = counting(5);
  const auto sample = [&](Index rows, Index length) {
    return refusal([&] {
      Batch batch{.shape = {rows, length}};
      sample_batch(tokens, batch, Key{1});
    });
  };
  CHECK(contains(sample(0, 3), "batch = 0"));
  CHECK(contains(sample(2, 0), "length = 0"));
  CHECK(contains(sample(2, -4), "length = -4"));
  CHECK(contains(sample(2, 5), "need 6 tokens; this part of the text has 5"));
  CHECK(sample(2, 4).empty());
}

TEST_CASE("sequential evaluation has every token but the first as a target exactly once, in order") {
  for (const int size : {2, 3, 12, 13, 36, 37, 40, 61}) {
    const std::vector<int> tokens = counting(size);
    const Windows windows{tokens, 3, 4};
    std::vector<int> inputs, targets;
    Batch batch;
    for (Index i = 0; i < windows.size(); ++i) {
      windows.read(i, batch);
      REQUIRE(batch.shape.tokens() > 0);
      REQUIRE(batch.shape.tokens() <= 12);
      REQUIRE(batch.shape.tokens() == static_cast<Index>(batch.targets.size()));
      inputs.insert(inputs.end(), batch.inputs.begin(), batch.inputs.end());
      targets.insert(targets.end(), batch.targets.begin(), batch.targets.end());
    }
    INFO(size << " tokens");
    CHECK(inputs == std::vector<int>(tokens.begin(), tokens.end() - 1));
    CHECK(targets == std::vector<int>(tokens.begin() + 1, tokens.end()));
  }
}

TEST_CASE("a batch of the sequential evaluation does not depend on earlier reads") {
  const std::vector<int> tokens = counting(40);
  const Windows windows{tokens, 3, 4};  // 39 targets: batches of 12, 12, 12 and a rest of 3
  REQUIRE(windows.size() == 4);
  Batch forward, backward;
  windows.read(3, backward);
  CHECK(backward.shape.batch == 1);
  CHECK(backward.shape.length == 3);
  windows.read(0, backward);
  windows.read(0, forward);
  CHECK(backward.inputs == forward.inputs);
  CHECK(backward.shape.length == 4);
}

TEST_CASE("sequential evaluation rejects sizes of zero, too short a text and a batch out of range") {
  const std::vector<int> one = counting(1), ten = counting(10);
  Batch batch;
  CHECK(contains(refusal([&] { (void)Windows{ten, 0, 4}.size(); }), "batch = 0"));
  CHECK(contains(refusal([&] { (void)Windows{ten, 2, 0}.size(); }), "length = 0"));
  CHECK(contains(refusal([&] { (void)Windows{one, 2, 4}.size(); }), "at least 2 tokens; this part"));
  CHECK(contains(refusal([&] { Windows{ten, 2, 4}.read(2, batch); }), "batch 2 is outside [0, 2)"));
  CHECK(contains(refusal([&] { Windows{ten, 2, 4}.read(-1, batch); }), "batch -1"));
}

TEST_CASE("a text has a length in characters and one in bytes, and in bytes alone if it is not UTF-8") {
  const std::string text = "caf\u00e9 \u4e2d\U0001F600\n";  // 1 1 1 2 1 3 4 1 bytes
  CHECK(length_of(text, text).characters == 8);
  CHECK(length_of(text, text).bytes == 14);
  CHECK(length_of(std::string_view(text).substr(4), text).characters ==
        4);  // begins within the accented letter
  CHECK(length_of("caf\xe9", "caf\xe9").characters == 0);
  CHECK(length_of("caf", "caf\xe9").characters == 0);
  CHECK(length_of("caf\xe9", "caf\xe9").bytes == 4);
}
