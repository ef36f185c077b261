// Files are read and written in pieces: beside the model there is little memory. count_test.cpp, in the same
// program, replaces malloc.
#include "count.hpp"

#include "../support/catch.hpp"
#include "../support/temporary_folder.hpp"

#include <moegpt/io/model_file.hpp>
#include <moegpt/model/init.hpp>

#include <memory>

using namespace moegpt;

namespace {

constexpr Config config{.vocab = 16384, .context = 8, .dim = 128, .layers = 1, .heads = 2, .hidden = 32};
template <class N>
using Model = GPT<config, TopKRouter<4, 2>, N>;
constexpr long mebibyte = 1 << 20;

// The most bytes beside those that were there before.
template <class F>
long peak_of(F&& f) {
  const long before = allocated_bytes;
  peak_bytes = before;
  f();
  return peak_bytes - before;
}

// Saves a model, loads it into four storages, and returns the most bytes beside it.
template <class N>
long peak_of_files_of(const std::string& path, const Tokenizer& tokenizer) {
  const auto model = std::make_unique<Model<N>>();
  init(*model, Key{1});
  long most = peak_of([&] { save(path, *model, tokenizer); });
  const auto load_as = [&]<class M>(std::type_identity<M>) {
    const auto loaded = std::make_unique<M>();
    Tokenizer read;
    most = std::max(most, peak_of([&] { load(path, *loaded, read); }));
  };
  load_as(std::type_identity<Model<float>>{});
  load_as(std::type_identity<Model<Stored<float>>>{});
  load_as(std::type_identity<Model<Stored<float, BF16>>>{});
  load_as(std::type_identity<Model<Stored<float, INT8>>>{});
  return most;
}

}  // namespace

TEST_CASE("a model is saved and loaded with less than 2 MiB beside it, in every storage") {
  if (!bytes_are_counted) return;
  const TemporaryFolder folder;
  const std::string path = (folder / "model").string();
  const Tokenizer tokenizer = Tokenizer::characters("abc");
  CHECK(peak_of_files_of<float>(path, tokenizer) < 2 * mebibyte);
  CHECK(std::filesystem::file_size(path) > 16 * mebibyte);
  CHECK(peak_of_files_of<Stored<float>>(path, tokenizer) < 2 * mebibyte);
  CHECK(peak_of_files_of<Stored<float, BF16>>(path, tokenizer) < 2 * mebibyte);
  CHECK(peak_of_files_of<Stored<float, INT8>>(path, tokenizer) < 2 * mebibyte);
  CHECK(std::filesystem::file_size(path) > 4 * mebibyte);
}

TEST_CASE("the type of a model is read from its file in less than a MiB") {
  if (!bytes_are_counted) return;
  const TemporaryFolder folder;
  const std::string path = (folder / "model").string();
  save(path, *std::make_unique<Model<Stored<float, INT8>>>(), Tokenizer::characters("abc"));
  CHECK(peak_of([&] { model_text(path); }) < mebibyte);
}
