#include <moegpt/io/adapter_file.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/routing/top_k_router.hpp>

#include "support.hpp"

#include <memory>

using namespace moegpt;

namespace {

constexpr Config base{.vocab = 9, .context = 4, .dim = 4, .layers = 1, .heads = 2, .norm = Norm::rms};
constexpr Config adapted = [] {
  Config c = base;
  c.adapter_rank = 2;
  return c;
}();
using Base = GPT<base, TopKRouter<2, 1>>;
using Model = GPT<adapted, TopKRouter<2, 1>>;

Tokenizer letters() { return Tokenizer::characters("abcdefgh\n"); }

template <class M>
std::unique_ptr<M> drawn(std::uint64_t seed) {
  auto model = std::make_unique<M>();
  Rng rng(seed);
  for_each_weight([&](auto& w) { rng.normals(w.data(), w.size()); }, *model);
  return model;
}
// Which weights of two models of one type have the same bits: -1 none, 1 all, 0 some.
int same(const Model& a, const Model& b, bool of_adapters) {
  int equal = 0, all = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& x, const auto& y) {
        if (is_adapter(path) != of_adapters) return;
        ++all, equal += x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin());
      },
      a, b);
  return equal == all ? 1 : equal == 0 ? -1 : 0;
}

}  // namespace

TEST_CASE("adapters are saved alone and loaded onto a model, with their alpha") {
  TemporaryFolder folder;
  const std::string path = folder / "adapters.safetensors";
  const auto tuned = drawn<Model>(1), model = drawn<Model>(2), before = std::make_unique<Model>(*model);
  tuned->options.adapter_alpha = 6;
  save_adapters(path, *tuned);
  const SafetensorsFile file = read_safetensors(path);
  CHECK(file.header.tensors.size() == 2 * 5);
  for (const auto& [name, tensor] : file.header.tensors) CHECK(is_adapter(name));
  load_adapters(path, *model);
  CHECK(same(*model, *tuned, true) == 1);
  CHECK(same(*model, *before, false) == 1);
  CHECK(model->options == tuned->options);
}

TEST_CASE("a base model is loaded into an adapted one, and merged weights into the base's type") {
  TemporaryFolder folder;
  const std::string path = folder / "base.safetensors", merged = folder / "merged.safetensors";
  const auto plain = drawn<Base>(3);
  const auto model = drawn<Model>(4), before = std::make_unique<Model>(*model);
  model->options.adapter_alpha = 6;
  save(path, *plain, letters());
  Tokenizer tokenizer;
  load_base(path, *model, tokenizer);
  CHECK(tokenizer == letters());
  CHECK(model->options.adapter_alpha == 6);
  CHECK(same(*model, *before, true) == 1);
  CHECK(std::equal(plain->head.weight.begin(), plain->head.weight.end(), model->head.weight.begin()));

  save_base(merged, *model, letters());  // not merged yet
  const auto read = drawn<Base>(5);
  load(merged, *read, tokenizer);
  CHECK(std::equal(plain->head.weight.begin(), plain->head.weight.end(), read->head.weight.begin()));
  merge_adapters(*model);
  save_base(merged, *model, letters());
  load(merged, *read, tokenizer);
  CHECK_FALSE(std::equal(plain->head.weight.begin(), plain->head.weight.end(), read->head.weight.begin()));
  CHECK(std::equal(model->head.weight.begin(), model->head.weight.end(), read->head.weight.begin()));
}

TEST_CASE(
    "adapters of another model, no adapters and files of other types are rejected, and change nothing") {
  TemporaryFolder folder;
  const std::string path = folder / "base.safetensors", whole = folder / "whole.safetensors";
  const auto plain = drawn<Base>(3);
  const auto model = drawn<Model>(4), before = std::make_unique<Model>(*model);
  Tokenizer tokenizer;
  CHECK(has(error_of([&] { save_adapters(path, *plain); }), "no tensor to write"));
  save(path, *plain, letters());
  CHECK(has(error_of([&] { load_adapters(path, *model); }), "adapter_rank is the default, expected 2"));
  CHECK(has(error_of([&] { load(path, *model, tokenizer); }), "adapter_rank is the default, expected 2"));
  save(whole, *model, letters());
  CHECK(
      has(error_of([&] { load_base(whole, *model, tokenizer); }), "adapter_rank is 2, expected the default"));
  save_adapters(path, *model);
  CHECK(has(error_of([&] { load(path, *model, tokenizer); }), "it was not written by moegpt"));
  CHECK(same(*model, *before, true) == 1);
  CHECK(same(*model, *before, false) == 1);
  load_adapters(whole, *model);  // a whole model has them, too
}

TEST_CASE("files of models without adapters state no alpha, so that older programs read them") {
  TemporaryFolder folder;
  const auto plain = drawn<Base>(3);
  save_safetensors(folder / "plain.safetensors", *plain);
  const auto& metadata = read_safetensors(folder / "plain.safetensors").header.metadata;
  CHECK(metadata.contains("moegpt.options.min_capacity"));
  CHECK_FALSE(metadata.contains("moegpt.options.adapter_alpha"));
  CHECK(to_text<Model>() ==
        "GPT<Config{.vocab = 9, .context = 4, .dim = 4, .layers = 1, .heads = 2, .norm = Norm::rms, "
        ".adapter_rank = 2}, TopKRouter<2, 1>>");
  CHECK(base_text<Model>() == to_text<Base>());
}
