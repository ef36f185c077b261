#include <moegpt/io/safetensors.hpp>
#include <moegpt/layers/adapted_linear.hpp>
#include <moegpt/layers/attention.hpp>
#include <moegpt/model/adapters.hpp>
#include <moegpt/train/adam.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/layers.hpp"

using namespace moegpt;

namespace {

using Adapted = AdaptedLinear<6, 5, 2, double>;
constexpr AttentionShape rotary{
    .dim = 6, .heads = 4, .kv_heads = 2, .head_dim = 4, .rotary = true, .bias = true, .adapter_rank = 3};

// A numbers of the fixture, as PyTorch computed them: tests/golden/make_adapters.py.
const std::vector<double>& golden(const std::string& name) {
  static std::map<std::string, std::vector<double>> read;
  static const SafetensorsFile file = read_safetensors(MOEGPT_TESTS_DIR "/golden/adapters.safetensors");
  std::vector<double>& numbers = read[name];
  INFO("tensor " << name);
  REQUIRE(file.header.tensors.contains(name));
  const TensorInfo& tensor = file.header.tensors.at(name);
  Index count = 1;
  for (const Index extent : tensor.shape) count *= extent;
  numbers.resize(static_cast<std::size_t>(count));
  for_each_number<double>(tensor.dtype, file.bytes(tensor).data(), count,
                          [&](Index i, double x) { numbers[static_cast<std::size_t>(i)] = x; });
  return numbers;
}
void set(auto& weight, const std::string& name) {
  REQUIRE(weight.size() == std::ssize(golden(name)));
  std::copy(golden(name).begin(), golden(name).end(), weight.begin());
}
double off(const auto& numbers, const std::string& name) {
  REQUIRE(numbers.size() == std::ssize(golden(name)));
  return distance(numbers.data(), golden(name).data(), numbers.size());
}

}  // namespace

TEST_CASE("the gradients of an adapted layer agree with differences, with and without an alpha") {
  for (const double alpha : {0.0, 3.0})
    gradcheck_three_seeds<Adapted>({.pass = {.shape = {2, 4}, .options = {.adapter_alpha = alpha}}});
}

TEST_CASE("the gradients of adapted attention agree with differences") {
  const Index lengths[2] = {4, 3};
  gradcheck_three_seeds<Attention<rotary, double>>(
      {.pass = {.shape = {2, 4}, .options = {.adapter_alpha = 2}, .lengths = lengths}});
}

TEST_CASE("a step of an adapted layer is PyTorch's: forward, gradients, AdamW and the merged matrix") {
  constexpr double tolerance = 1e-10;  // values of order one to ten, in double
  Adapted layer, grad;
  set(layer.linear.weight, "weight"), set(layer.linear.bias, "bias");
  set(layer.adapter.a, "a"), set(layer.adapter.b, "b");
  Tokens<6, double> x(7), dx(7);
  Tokens<5, double> y(7), dy(7);
  set(x.memory(), "x"), set(dy.memory(), "dy");
  const Pass pass{.shape = {1, 7}, .options = {.adapter_alpha = 3}};
  Adapted::Tape tape;
  Adapted::Scratch scratch;
  layer.forward(x, y, tape, pass);
  CHECK(off(y.memory(), "y") <= tolerance);
  layer.backward(x, tape, dy, dx, grad, scratch, pass);
  CHECK(off(dx.memory(), "d.x") <= tolerance);
  CHECK(off(grad.linear.weight, "d.weight") <= tolerance);
  CHECK(off(grad.linear.bias, "d.bias") <= tolerance);
  CHECK(off(grad.adapter.a, "d.a") <= tolerance);
  CHECK(off(grad.adapter.b, "d.b") <= tolerance);

  grad.linear.weight.release(), grad.linear.bias.release();
  Adam<Adapted> adam({.learning_rate = 1e-2, .weight_decay = 0.01}, grad);
  adam.step(layer, grad);
  CHECK(off(layer.adapter.a, "step.a") <= tolerance);
  CHECK(off(layer.adapter.b, "step.b") <= tolerance);
  CHECK(off(layer.linear.weight, "weight") == 0);
  CHECK(adam.first_moment().linear.weight.empty());
}

TEST_CASE("with B zero an adapted layer has the bits of its linear layer, in all storages and batches") {
  const auto x = random_tokens<70, float>(33, 1);
  const auto compare = [&]<class N>(N) {
    AdaptedLinear<70, 66, 8, N> layer;
    const auto matrix = random_tokens<70, float>(66, 2), a = random_tokens<70, float>(8, 3);
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto& w) {
          const bool narrow = path == "adapter.a";
          for (Index i = 0; i < w.rows && w.cols == 70; ++i) write_row(w.view(), i, (narrow ? a : matrix)[i]);
        },
        layer);
    for (const Index count : {1, 3, 8, 33}) {
      Tokens<66, float> y(count), expected(count);
      typename decltype(layer)::Tape tape;
      const Pass pass{.shape = {1, count}};
      layer.linear.forward(x.rows({0, count}), expected, pass);
      layer.forward(x.rows({0, count}), y, tape, pass);
      CHECK(same_bits(y, expected));
      layer.adapter.b[5] = 1;  // a test that can fail
      layer.forward(x.rows({0, count}), y, tape, pass);
      CHECK_FALSE(same_bits(y, expected));
      layer.adapter.b[5] = 0;
    }
  };
  compare(float{});
  compare(Stored<float, INT8>{});
}

TEST_CASE("a token has the same bits in a batch and alone, whatever the storage (invariant 6)") {
  const auto compare = [&]<class N>(N) {
    AdaptedLinear<70, 66, 8, N> layer;
    for_each_weight(
        [](const auto& w) {
          Buffer<float> row = random_numbers<float>(w.cols, 4, 0.3);
          for (Index i = 0; i < w.rows; ++i) {
            row[i % w.cols] += 0.1f;
            write_row(w.view(), i, row.data());
          }
        },
        layer);
    const auto x = random_tokens<70, float>(300, 5);
    Tokens<66, float> all(300), some(300);
    typename decltype(layer)::Tape tape;
    layer.forward(x, all, tape, {.shape = {1, 300}, .exec = {.threads = 2}});
    for (const Index count : {1, 2, 7, 20}) {
      layer.forward(x.rows({130, count}), some.rows({0, count}), tape, {.shape = {1, count}});
      CHECK(same_bits(some[0], all[130], count * 66));
    }
  };
  compare(float{});
  compare(Stored<float, INT8>{});
}

TEST_CASE("freezing a weight of adapted attention changes no other gradient") {
  freezing_changes_no_other_gradient<Attention<rotary, double>>({.shape = {2, 5}});
}

TEST_CASE("without adapters the layers are those of before, and as large") {
  static_assert(std::same_as<Projection<6, 5, 0>, Linear<6, 5>>);
  static_assert(std::same_as<Projection<6, 5, 2, double>, Adapted>);
  static_assert(std::is_empty_v<Adapter<6, 5, 0, float>>);
  using Plain = Attention<AttentionShape{.dim = 6, .heads = 2}>;
  static_assert(std::same_as<decltype(Plain::query), Linear<6, 6, float, false>>);
  // Four matrices and a bias; what is absent has an address at most.
  static_assert(sizeof(Plain) < 6 * sizeof(Weight<float, 2>));
}
