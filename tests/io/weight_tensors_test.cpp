// Files of weights in any storage, read into any storage.
#include <moegpt/io/model_file.hpp>
#include <moegpt/model/convert.hpp>
#include <moegpt/model/init.hpp>

#include "support.hpp"

using namespace moegpt;

namespace {

constexpr Config config{.vocab = 9, .context = 8, .dim = 40, .layers = 1, .heads = 2, .hidden = 12};
template <class N>
using Model = GPT<config, TopKRouter<4, 2>, N>;
using BF16Model = Model<Stored<float, BF16>>;
using INT8Model = Model<Stored<float, INT8>>;

template <class M>
std::vector<float> numbers(const M& model) {
  std::vector<float> all;
  for_each_weight(
      [&](const auto& w) {
        for (Index i = 0; i < w.size(); ++i) all.push_back(static_cast<float>(w[i]));
      },
      model);
  return all;
}
// What a model's weights are once it is stored as M.
template <class M, class From>
std::vector<float> converted(const From& from) {
  M to;
  convert(from, to);
  return numbers(to);
}
template <class M>
std::vector<float> loaded(const std::filesystem::path& path) {
  M model;
  Tokenizer tokenizer;
  load(path.string(), model, tokenizer);
  return numbers(model);
}

template <class N>
struct Map {
  using Scalar = ScalarOf<N>;
  Weight<StorageOf<N>, 2, 33> weight;
  static constexpr auto fields() { return Fields{Field{"map", &Map::weight}}; }
};
// Larger than a piece in every storage, of rows that divide neither it nor blocks of 32; and one row that is.
template <class N>
struct Large {
  using Scalar = ScalarOf<N>;
  Weight<StorageOf<N>, 1301, 1001> weight;
  Weight<Scalar, 300'001> vector;
  static constexpr auto fields() {
    return Fields{Field{"map", &Large::weight}, Field{"vector", &Large::vector}};
  }
};
std::string floats(std::initializer_list<float> x) {
  return {reinterpret_cast<const char*>(x.begin()), x.size() * sizeof(float)};
}
// The message for a Map read from a file with these tensors.
template <class N>
std::string refusal_of(const std::string& tensors, const std::string& data) {
  return error_of([&] {
    Map<N> map;
    load_safetensors(parse_safetensors(safetensors_bytes("{" + tensors + "}", data), "m"), map);
  });
}
constexpr const char* integers = R"("map":{"dtype":"I8","shape":[2,33],"data_offsets":[16,82]})";
constexpr const char* scales = R"("map.scale":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)";

}  // namespace

TEMPLATE_TEST_CASE("a model comes back from its file in every storage as if it were converted", "", float,
                   Stored<float>, (Stored<float, BF16>), (Stored<float, INT8>)) {
  TemporaryFolder folder;
  const std::string path = folder.path / "model.safetensors";
  Model<float> model;
  init(model, Key{1}, Init::makemoe);
  Model<TestType> saved;
  convert(model, saved);
  save(path, saved, Tokenizer::characters("abc"));
  CHECK(loaded<Model<TestType>>(path) == numbers(saved));
  CHECK(loaded<Model<float>>(path) == numbers(saved));
  CHECK(loaded<Model<double>>(path) == numbers(saved));
  CHECK(loaded<BF16Model>(path) == converted<BF16Model>(saved));
  CHECK(loaded<INT8Model>(path) ==
        (std::same_as<StorageOf<TestType>, INT8> ? numbers(saved) : converted<INT8Model>(saved)));
}

TEMPLATE_TEST_CASE("weights larger than a piece are written and read whole", "", double, float,
                   (Stored<float, BF16>), (Stored<float, INT8>)) {
  TemporaryFolder folder;
  Large<TestType> large, same;
  Large<float> wide;
  Rng rng(1);
  std::vector<typename Large<TestType>::Scalar> row;
  for_each_weight(
      [&](auto& w) {
        row.resize(static_cast<std::size_t>(w.cols));
        for (Index i = 0; i < w.rows; ++i) {
          for (auto& number : row) number = static_cast<float>(rng.uniform() - 0.5);
          write_row(w.view(), i, row.data());
        }
      },
      large);
  save_safetensors(folder / "large", large);
  load_safetensors(folder / "large", same);
  load_safetensors(folder / "large", wide);
  const std::vector<float> expected = numbers(large);
  CHECK((numbers(same) == expected));  // not printed: Catch2 takes minutes for so many numbers
  CHECK((numbers(wide) == expected));
  save_safetensors(folder / "again", same);
  CHECK((get(folder / "again") == get(folder / "large")));
}

TEST_CASE("in a file BF16 has two bytes a number, INT8 one and four for each 32 of a row") {
  TemporaryFolder folder;
  save_safetensors(folder.path / "b", Map<Stored<float, BF16>>{});
  save_safetensors(folder.path / "i", Map<Stored<float, INT8>>{});
  const auto b = read_safetensors(folder.path / "b").header.tensors,
             i = read_safetensors(folder.path / "i").header.tensors;
  CHECK(b.size() == 1);
  CHECK(b.at("map").dtype == DType::bf16);
  CHECK(i.size() == 2);
  CHECK(i.at("map").dtype == DType::i8);
  CHECK(i.at("map").shape == std::vector<Index>{2, 33});
  CHECK(i.at("map.scale").dtype == DType::f32);
  CHECK(i.at("map.scale").shape == std::vector<Index>{2, 2});
  CHECK(i.at("map.scale").end == 16);  // scales first: larger types come first
}

TEMPLATE_TEST_CASE("integers in a file are multiplied by the scale of their row and block of 32", "", float,
                   Stored<float>, (Stored<float, BF16>), (Stored<float, INT8>)) {
  Map<TestType> map;
  std::string data = floats({1, 2, 4, 8});  // [block, row]
  for (int row = 0; row < 2; ++row)
    for (int k = 0; k < 33; ++k)
      data += static_cast<char>(k == 0 ? 127 : k == 1 ? -127 : k == 32 ? 127 : -3 - row);
  load_safetensors(
      parse_safetensors(safetensors_bytes("{" + std::string(scales) + integers + "}", data), "m"), map);
  CHECK(map.weight[0] == Approx(127));
  CHECK(map.weight[1] == Approx(-127));
  CHECK(map.weight[2] == Approx(-3).epsilon(0.004));
  CHECK(map.weight[32] == Approx(4 * 127));
  CHECK(map.weight[33] == Approx(2 * 127));
  CHECK(map.weight[33 + 2] == Approx(-8).epsilon(0.004));
  CHECK(map.weight[65] == Approx(8 * 127));
}

TEMPLATE_TEST_CASE("tensors that do not fit a stored weight are refused by name, type and shape", "", float,
                   Stored<float>, (Stored<float, BF16>), (Stored<float, INT8>)) {
  using N = TestType;
  const std::string data = floats({1, 2, 4, 8}) + std::string(66, '\1');
  CHECK(refusal_of<N>(std::string(scales) + integers, data) == "");
  CHECK(has(
      refusal_of<N>(R"("map":{"dtype":"I8","shape":[2,33],"data_offsets":[0,66]})", std::string(66, '\1')),
      "'map' is I8 without its scales, expected 'map.scale', F32 [2, 2]"));
  CHECK(has(
      refusal_of<N>(
          R"("map.scale":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)" + std::string(integers), data),
      "'map.scale' is F32 [4], expected F32 [2, 2]"));
  CHECK(has(refusal_of<N>(
                R"("map.scale":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]},)" + std::string(integers),
                data),
            "'map.scale' is I32 [2, 2], expected F32 [2, 2]"));
  CHECK(has(
      refusal_of<N>(R"("map":{"dtype":"U8","shape":[2,33],"data_offsets":[0,66]})", std::string(66, '\1')),
      "'map' is U8, expected F64, F32, F16 or BF16, or I8 with scales"));
  CHECK(has(
      refusal_of<N>(R"("map":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]})", std::string(12, '\1')),
      "'map' has shape [2, 3], expected [2, 33]"));
  // Scales belong to integers alone.
  CHECK(has(refusal_of<N>(R"("map.scale":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                          R"("map":{"dtype":"BF16","shape":[2,33],"data_offsets":[16,148]})",
                          data + std::string(66, '\1')),
            "unknown to this model: 'map.scale'"));
  CHECK(has(refusal_of<N>(std::string(scales) + integers, floats({1, 2, 4, 3e38f}) + std::string(66, '\2')),
            "tensor 'map' holds inf at index 65"));
  CHECK(has(refusal_of<N>(std::string(scales) + integers,
                          floats({1, 2, std::numeric_limits<float>::infinity(), 8}) + std::string(66, '\1')),
            "tensor 'map.scale' holds inf at index 2"));
}

TEST_CASE("what is not finite in its storage is neither saved nor loaded") {
  TemporaryFolder folder;
  Map<float> large;
  large.weight[7] = 3.4e38f;  // of BF16 the largest is 3.39e38
  save_safetensors(folder.path / "large", large);
  Map<Stored<float, BF16>> narrow;
  CHECK(has(error_of([&] { load_safetensors(folder.path / "large", narrow); }),
            "tensor 'map' holds 3.4e+38 at index 7, expected a finite BF16"));
  *PanelsView<BF16, BF16>(narrow.weight).at(0, 7) = BF16(std::numeric_limits<float>::infinity());
  CHECK(has(error_of([&] { save_safetensors(folder.path / "narrow", narrow); }),
            "tensor 'map' holds inf at index 7"));
  Map<Stored<float, INT8>> narrower;
  load_safetensors(folder.path / "large", narrower);
  CHECK(narrower.weight[7] == Approx(3.4e38));
  PanelsView<INT8, std::int8_t>(narrower.weight).set_scale(1, 0, std::numeric_limits<float>::quiet_NaN());
  CHECK(has(error_of([&] { save_safetensors(folder.path / "narrower", narrower); }),
            "tensor 'map.scale' holds nan at index 1"));
}
