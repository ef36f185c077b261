#include <moegpt/io/safetensors.hpp>

#include "support.hpp"

#include <chrono>
#include <limits>
#include <vector>

using namespace moegpt;

namespace {

template <class T>
struct Leaf {
  Weight<T, 3, 2> weight;
  Weight<T, 3> bias;
  static constexpr auto fields() {
    return Fields{Field{"weight", &Leaf::weight}, Field{"bias", &Leaf::bias}};
  }
};

template <class T>
struct Tree {
  Weight<T> scale;       // rank 0
  Weight<T, 0, 4> none;  // this model has no such weight
  std::array<Leaf<T>, 2> leaves;
  static constexpr auto fields() {
    return Fields{Field{"scale", &Tree::scale}, Field{"none", &Tree::none}, Field{"leaves", &Tree::leaves}};
  }
};

// Numbers that differ everywhere and are exact in float.
template <class T>
void fill(Tree<T>& tree) {
  T next = T(-2.25);
  for_each_weight(
      [&](auto& weight) {
        for (T& number : weight) number = next += T(0.75);
      },
      tree);
}

template <class T>
std::vector<double> numbers(const Tree<T>& tree) {
  std::vector<double> all;
  for_each_weight([&](const auto& weight) { all.insert(all.end(), weight.begin(), weight.end()); }, tree);
  return all;
}

template <class T>
std::string raw(std::initializer_list<T> numbers) {
  return {reinterpret_cast<const char*>(numbers.begin()), numbers.size() * sizeof(T)};
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" +
         offsets + "]}";
}

struct Vector {
  Weight<float, 2> a;
  static constexpr auto fields() { return Fields{Field{"a", &Vector::a}}; }
};

// The two numbers of a file with one tensor 'a'.
std::array<float, 2> load_vector(const std::string& dtype, const std::string& data,
                                 SafetensorsOptions options = {}) {
  Vector vector;
  const std::string header = "{" + tensor("a", dtype, "2", "0," + std::to_string(data.size())) + "}";
  load_safetensors(parse_safetensors(safetensors_bytes(header, data), "m"), vector, options);
  return {vector.a[0], vector.a[1]};
}

}  // namespace

TEMPLATE_TEST_CASE("a tree read from its file has the same bits", "", float, double) {
  TemporaryFolder folder;
  Tree<TestType> tree, loaded;
  fill(tree);
  save_safetensors(folder / "m.safetensors", tree, {{"note", "\"quoted\" \xc3\xa9\n"}});
  const SafetensorsFile file = read_safetensors(folder / "m.safetensors");
  CHECK(file.header.metadata ==
        Metadata{{"format", "pt"}, {"moegpt.format_version", "2"}, {"note", "\"quoted\" \xc3\xa9\n"}});
  CHECK(file.header.tensors.size() == 5);
  CHECK(file.header.tensors.at("leaves.1.weight").shape == std::vector<Index>{3, 2});
  CHECK(get(folder / "m.safetensors")[0] % 8 == 0);  // the header's length: data is aligned
  load_safetensors(file, loaded);
  CHECK(numbers(tree) == numbers(loaded));
}

TEST_CASE("a file of floats sets a tree of doubles and vice versa") {
  TemporaryFolder folder;
  Tree<float> narrow, narrow_again;
  Tree<double> wide;
  fill(narrow);
  save_safetensors(folder / "narrow", narrow);
  load_safetensors(folder / "narrow", wide);
  CHECK(numbers(narrow) == numbers(wide));
  save_safetensors(folder / "wide", wide);
  load_safetensors(folder / "wide", narrow_again);
  CHECK(numbers(narrow) == numbers(narrow_again));
}

TEST_CASE("a file written by hand from the format's description fills the tree") {
  CHECK(load_vector("F32", raw({1.5f, -2.f})) == std::array{1.5f, -2.f});
  CHECK(load_vector("F64", raw({1.5, -2.})) == std::array{1.5f, -2.f});
  CHECK(load_vector("F16", std::string("\x00\x3e\x00\xc0", 4)) == std::array{1.5f, -2.f});
  CHECK(load_vector("BF16", std::string("\xc0\x3f\x00\xc0", 4)) == std::array{1.5f, -2.f});
}

TEST_CASE("the bytes of a file are those of the format's description") {
  TemporaryFolder folder;
  const float one[] = {1.5f};
  const double two[] = {-2., 3.};
  save_safetensors(
      folder / "m",
      {{"b", DType::f32, {}, one}, {"c", DType::f64, {2}, two}, {"a", DType::f32, {0}, nullptr}});
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}," + tensor("c", "F64", "2", "0,16") + "," +
                       tensor("a", "F32", "0", "16,16") + "," + tensor("b", "F32", "", "16,20") + "}";
  while (header.size() % 8 != 0) header += ' ';
  CHECK(get(folder / "m") == safetensors_bytes(header, raw({-2., 3.}) + raw({1.5f})));
}

TEST_CASE("equal trees give equal bytes") {
  TemporaryFolder folder;
  Tree<float> tree;
  fill(tree);
  const Tree<float> copy = tree;
  save_safetensors(folder / "a", tree, {{"x", "1"}, {"y", "2"}});
  save_safetensors(folder / "b", copy, {{"y", "2"}, {"x", "1"}});
  CHECK(get(folder / "a") == get(folder / "b"));
}

TEST_CASE("a weight not held here is neither written nor read, and its tensor is not unexpected") {
  TemporaryFolder folder;
  Tree<float> all, some;
  fill(all);
  some.leaves[1].weight.release();
  save_safetensors(folder / "all", all);
  load_safetensors(folder / "all", some);
  CHECK(some.leaves[1].weight.empty());
  CHECK(some.leaves[1].bias[2] == all.leaves[1].bias[2]);
  save_safetensors(folder / "some", some);
  CHECK_FALSE(read_safetensors(folder / "some").header.tensors.contains("leaves.1.weight"));
  CHECK(has(error_of([&] { load_safetensors(folder / "some", all); }),
            "missing in the file: 'leaves.1.weight'"));
}

TEST_CASE("a file of another model is rejected with every difference named and the tree is unchanged") {
  const std::string header = "{" + tensor("scale", "I32", "", "0,4") + "," +
                             tensor("leaves.0.bias", "F32", "2", "4,12") + "," +
                             tensor("extra", "F32", "1", "12,16") + "}";
  const SafetensorsFile file =
      parse_safetensors(safetensors_bytes(header, std::string(16, '\0')), "m.safetensors");
  Tree<float> tree;
  fill(tree);
  const Tree<float> before = tree;
  const std::string error = error_of([&] { load_safetensors(file, tree); });
  CHECK(has(error, "m.safetensors"));
  CHECK(has(error, "missing in the file: 'leaves.0.weight', 'leaves.1.weight', 'leaves.1.bias'"));
  CHECK(has(error, "unknown to this model: 'extra' [1]"));
  CHECK(has(error, "'scale' is I32, expected F64, F32, F16 or BF16"));
  CHECK(has(error, "'leaves.0.bias' has shape [2], expected [3]"));
  CHECK(numbers(tree) == numbers(before));
}

TEST_CASE("long lists of differences are truncated") {
  Tree<float> tree;
  const SafetensorsFile file = parse_safetensors(safetensors_bytes("{}"), "m");
  const std::string error = error_of([&] { load_safetensors(file, tree); });
  CHECK(has(error, "missing in the file: 'scale', 'leaves.0.weight', 'leaves.0.bias' and 2 more"));
}

TEST_CASE("a number that is not finite is rejected by name and index unless one asks for it") {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  CHECK(has(error_of([&] { load_vector("F32", raw({1.f, nan})); }), "tensor 'a' holds nan at index 1"));
  CHECK(
      has(error_of([&] { load_vector("F32", raw({-infinity, 1.f})); }), "tensor 'a' holds -inf at index 0"));
  CHECK(has(error_of([&] { load_vector("F64", raw({1., 1e300})); }), "at index 1, expected a finite float"));
  CHECK(has(error_of([&] { load_vector("BF16", std::string("\x80\x7f\x80\x3f", 4)); }), "index 0"));
  const auto loaded = load_vector("F32", raw({1.f, nan}), {.check_finite = false});
  CHECK(loaded[0] == 1.f);
  CHECK_FALSE(is_finite(loaded[1]));
}

TEST_CASE("one bad number in the last tensor leaves the whole tree unchanged") {
  TemporaryFolder folder;
  Tree<float> tree, bad;
  fill(bad);
  bad.leaves[1].bias[2] = std::numeric_limits<float>::quiet_NaN();
  save_safetensors(folder / "m", bad, {}, {.check_finite = false});
  const Tree<float> before = tree;
  CHECK(has(error_of([&] { load_safetensors(folder / "m", tree); }), "'leaves.1.bias' holds nan at index 2"));
  CHECK(numbers(tree) == numbers(before));
}

TEST_CASE("a file that is changed after it was opened is refused and the tree is unchanged") {
  TemporaryFolder folder;
  Tree<float> tree, other;
  fill(other);
  const Tree<float> before = tree;
  const auto path = folder / "m";
  const auto refused_after = [&](auto&& change, const char* message) {
    save_safetensors(path, other);
    std::filesystem::last_write_time(path,
                                     std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
    const SafetensorsFile file = read_safetensors(path);
    change();
    CHECK(has(error_of([&] { load_safetensors(file, tree); }), message));
    CHECK(numbers(tree) == numbers(before));
  };
  refused_after([&] { std::fstream(path, std::ios::in | std::ios::out).seekp(-4, std::ios::end) << "1234"; },
                "was changed while it was read");
  refused_after([&] { std::ofstream(path, std::ios::app) << "1234"; }, "was changed while it was read");
  refused_after([&] { std::filesystem::resize_file(path, std::filesystem::file_size(path) - 4); },
                "ended after");
}

TEST_CASE("a file that is open is read as it was when save puts another one in its place") {
  TemporaryFolder folder;
  Tree<float> old, fresh, loaded;
  fill(old);
  save_safetensors(folder / "m", old);
  const SafetensorsFile file = read_safetensors(folder / "m");
  save_safetensors(folder / "m", fresh);
  load_safetensors(file, loaded);
  CHECK(numbers(loaded) == numbers(old));
  load_safetensors(folder / "m", loaded);
  CHECK(numbers(loaded) == numbers(fresh));
}

TEST_CASE("a number that is not finite is refused when the tree is filled, too") {
  // As if another program had written it after all numbers were checked.
  const float infinity = std::numeric_limits<float>::infinity();
  Weight<float, 2> a;
  a[1] = 3;
  const std::string header = "{" + tensor("a", "F32", "2", "0,8") + "}";
  const SafetensorsFile file = parse_safetensors(safetensors_bytes(header, raw({1.f, infinity})), "m");
  const auto from = safetensors::tensors_of(file.header.tensors, "a");
  const auto fill_weight = [&] {
    safetensors::read_weight(file, "a", from, WeightRef<float>(a), {.check_finite = true, .fill = true});
  };
  CHECK(has(error_of(fill_weight), "tensor 'a' holds inf at index 1"));
  CHECK(a[1] == 3);
}

TEST_CASE("a tree with a bad number is not written") {
  TemporaryFolder folder;
  put(folder / "m", "old");
  Tree<float> tree;
  tree.leaves[0].bias[1] = std::numeric_limits<float>::infinity();
  const std::string error = error_of([&] { save_safetensors(folder / "m", tree); });
  CHECK(has(error, "'leaves.0.bias' holds inf at index 1"));
  CHECK(get(folder / "m") == "old");
}

TEST_CASE("a file that could not be read is not written") {
  TemporaryFolder folder;
  const float one[] = {1};
  const NamedTensor a{"a", DType::f32, {1}, one};
  auto error = [&](std::vector<NamedTensor> tensors, const Metadata& metadata = {}) {
    return error_of([&] { save_safetensors(folder / "m", tensors, metadata); });
  };
  CHECK(has(error({}), "expected at least one"));
  CHECK(has(error({a, a}), "tensor 'a' occurs twice"));
  CHECK(has(error({{"__metadata__", DType::f32, {1}, one}}), "__metadata__ occurs twice"));
  CHECK(has(error({{"\xff", DType::f32, {1}, one}}), "UTF-8"));
  CHECK(has(error({{"a", DType::f32, {1, 1, 1, 1, 1, 1, 1, 1, 1}, one}}), "more than 8"));
  CHECK(has(error({{"a", DType::f32, {-1}, one}}), "minus sign"));
  CHECK(has(error({a}, {{"k", "\xc0"}}), "UTF-8"));
  CHECK(has(error({a}, {{"k", std::string(16'000'001, 'x')}}), "more than 16000000 bytes"));
  CHECK(folder.files() == 0);
}

TEST_CASE("a file truncated anywhere is rejected") {
  TemporaryFolder folder;
  Tree<float> tree;
  fill(tree);
  save_safetensors(folder / "m", tree);
  const std::string bytes = get(folder / "m");
  for (std::size_t size = 0; size < bytes.size(); ++size)
    CHECK_THROWS_AS(parse_safetensors(bytes.substr(0, size), "m"), std::runtime_error);
}

TEST_CASE("a file with any one bit flipped is read or rejected, never anything else") {
  TemporaryFolder folder;
  Tree<float> tree;
  fill(tree);
  save_safetensors(folder / "m", tree, {{"note", "text"}});
  const std::string bytes = get(folder / "m");
  int refused = 0;
  for (std::size_t i = 0; i < bytes.size() * 8; ++i) {
    std::string flipped = bytes;
    flipped[i / 8] = static_cast<char>(flipped[i / 8] ^ (1 << i % 8));
    try {
      load_safetensors(parse_safetensors(std::move(flipped), "m"), tree);
    } catch (const std::runtime_error&) {
      ++refused;
    }
  }
  CHECK(refused > 64);  // all of the length's upper bits at least
}

TEST_CASE("a tensor without data is rejected unless its shape has a zero") {
  TemporaryFolder folder;
  const auto says = [&](std::vector<Index> shape) {
    return error_of([&] { save_safetensors(folder / "m.safetensors", {{"x", DType::f32, shape, nullptr}}); });
  };
  CHECK(says({2, 3}).find("has null data") != std::string::npos);
  CHECK(says({}).find("has null data") != std::string::npos);
  CHECK(says({2, 0}).find("null data") == std::string::npos);
}
