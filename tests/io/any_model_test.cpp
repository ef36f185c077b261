#include <moegpt/io/any_model.hpp>

#include <moegpt/io.hpp>

#include "support.hpp"

using namespace moegpt;

namespace {

constexpr Config config{.vocab = 9, .context = 8, .dim = 8, .layers = 2, .heads = 2, .hidden = 6};
using Sparse = GPT<config, TopKRouter<4, 2>>;
using Plain = GPT<config>;
using Hashed = GPT<config, HashRouter<4, 2>>;
using Any = AnyModel<Plain, Sparse>;

template <class Model>
std::string saved(const TemporaryFolder& folder, std::uint64_t seed) {
  const std::string path = (folder / "model.safetensors").string();
  Model model;
  init(model, Key{seed});
  save(path, model, Tokenizer::characters("abcdefgh\n"));
  return path;
}

}  // namespace

TEST_CASE(
    "a file of any of the types is read, generates, scores and has intermediates as its own type does") {
  const TemporaryFolder folder;
  const std::string path = saved<Sparse>(folder, 3);
  Sparse model;
  Tokenizer tokenizer;
  load(path, model, tokenizer);
  const Any any(path);
  CHECK(any.type() == to_text<Sparse>());
  CHECK(any.tokenizer == tokenizer);
  REQUIRE(std::holds_alternative<Sparse>(any.model));
  const Generate how{.tokens = 12, .seed = 4};
  const std::string text =
      std::visit([&](const auto& read) { return generate(read, any.tokenizer, "ab", how); }, any.model);
  CHECK(text == generate(model, tokenizer, "ab", how));
  const double log_probability =
      std::visit([&](const auto& read) { return score(read, any.tokenizer, "ab", "cd"); }, any.model);
  CHECK(log_probability == score(model, tokenizer, "ab", "cd"));

  const auto seen = [&](const auto& read) {
    typename std::decay_t<decltype(read)>::Workspace work{{1, 3}};
    Batch batch{{1, 3}, {1, 2, 3}, {2, 3, 4}};
    read.forward(batch, work);
    return to_json(intermediates(read, work));
  };
  CHECK(std::visit(seen, any.model) == seen(model));

  CHECK(Any(saved<Plain>(folder, 5)).type() == to_text<Plain>());
}

TEST_CASE("a file of another type states its type and those of the program") {
  const TemporaryFolder folder;
  const std::string path = saved<Hashed>(folder, 3);
  CHECK(error_of([&] { Any any(path); }) ==
        "moegpt: " + path + " holds a\n  '" + to_text<Hashed>() +
            "'\nwhich this program is not compiled for. It has:\n  " + to_text<Plain>() + "\n  " +
            to_text<Sparse>() + "\nAdd the type of the file to its AnyModel<...> and compile again");
  CHECK(has(error_of([&] { Any any((folder / "none").string()); }), "cannot open"));
}

TEST_CASE("a model is read into the storage that the program names") {
  const TemporaryFolder folder;
  using Narrow = GPT<config, TopKRouter<4, 2>, Stored<float, INT8>>;
  const AnyModel<Plain, Narrow> any(saved<Sparse>(folder, 3));
  CHECK(std::holds_alternative<Narrow>(any.model));
}
