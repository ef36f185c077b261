#include <moegpt/core/fields.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <memory>
#include <vector>

using namespace moegpt;

namespace {

struct Leaf {
  Weight<float, 2, 3> weight;
  Weight<float, 0> bias;  // this leaf has none
  static constexpr auto fields() {
    return Fields{Field{"weight", &Leaf::weight}, Field{"bias", &Leaf::bias}};
  }
};
struct Router {
  Weight<float, 3> gate;
  Weight<float, 3> load;
  static constexpr auto fields() {
    return Fields{Field{"gate", &Router::gate}, Field{"load", &Router::load, Kind::buffer}};
  }
};
struct Mixture {
  Router router;
  std::array<Leaf, 2> experts;
  Router shared;  // a router in the place of experts: its buffer stays a buffer
  Leaf plain;     // a field without a name of its own
  static constexpr auto fields() {
    return Fields{Field{"router", &Mixture::router}, Field{"experts", &Mixture::experts, Kind::sparse},
                  Field{"shared", &Mixture::shared, Kind::sparse}, Field{"", &Mixture::plain}};
  }
};
struct Forgetful {
  Leaf first, second;
  static constexpr auto fields() { return Fields{Field{"first", &Forgetful::first}}; }
};
struct WithOptions {
  Leaf leaf;
  int options = 0;
  static constexpr auto fields() { return Fields{Field{"leaf", &WithOptions::leaf}}; }
};
struct Empty {
  static constexpr auto fields() { return Fields<>{}; }
};

}  // namespace

TEST_CASE("a traversal visits weights in the order of fields(), with their paths and kinds") {
  Mixture mixture;
  std::vector<std::pair<std::string, Kind>> seen;
  for_each_named_weight([&](const std::string& path, Kind kind, auto&) { seen.emplace_back(path, kind); },
                        mixture);
  const std::vector<std::pair<std::string, Kind>> expected{
      {"router.gate", Kind::trainable},   {"router.load", Kind::buffer}, {"experts.0.weight", Kind::sparse},
      {"experts.1.weight", Kind::sparse}, {"shared.gate", Kind::sparse}, {"shared.load", Kind::buffer},
      {"weight", Kind::trainable}};
  CHECK(seen == expected);
}

TEST_CASE(
    "the start of a field holds for weights with the default start, and a constant for all its weights") {
  struct Part {
    Weight<float, 2, 2> matrix;
    Weight<float, 2> bias, gain;
    static constexpr auto fields() {
      return Fields{Field{"matrix", &Part::matrix}, Field{"bias", &Part::bias, Start::bias(2)},
                    Field{"gain", &Part::gain, Kind::buffer, Start::one}};
    }
  };
  struct Whole {
    Part plain, last, off;
    std::array<Weight<float, 2>, 2> mask;
    static constexpr auto fields() {
      return Fields{Field{"plain", &Whole::plain}, Field{"last", &Whole::last, Start::residual},
                    Field{"off", &Whole::off, Start::zero},
                    Field{"mask", &Whole::mask, Kind::sparse, Start::at(0.5)}};
    }
  };
  std::vector<std::pair<std::string, Start>> seen;
  walk::each(
      [&](const walk::Path& path, const walk::Attributes& attributes, auto&) {
        seen.emplace_back(path.text(), attributes.start);
        CHECK((attributes.kind == Kind::buffer) == (path.name() == "gain"));
        CHECK((attributes.kind == Kind::sparse) == path.text().starts_with("mask."));
      },
      std::as_const(*std::make_unique<Whole>()));
  const std::vector<std::pair<std::string, Start>> expected{
      {"plain.matrix", {}},          {"plain.bias", Start::bias(2)},
      {"plain.gain", Start::one},    {"last.matrix", Start::residual},
      {"last.bias", Start::bias(2)}, {"last.gain", Start::one},
      {"off.matrix", Start::zero},   {"off.bias", Start::zero},
      {"off.gain", Start::zero},     {"mask.0", Start::at(0.5)},
      {"mask.1", Start::at(0.5)}};
  CHECK(seen == expected);
}

TEST_CASE("several trees are traversed together, const ones as const") {
  Mixture a, b;
  draw_weights(a, 1);
  const Mixture c = a;
  int visits = 0;
  for_each_weight(
      [&](auto& x, auto& y, auto& z) {
        static_assert(!std::is_const_v<std::remove_pointer_t<decltype(y.data())>>);
        static_assert(std::is_const_v<std::remove_pointer_t<decltype(z.data())>>);
        CHECK(x.data() != y.data());
        CHECK(
            same_bits(static_cast<const float*>(x.data()), z.data(), x.size()));  // all weights are different
        std::copy(x.begin(), x.end(), y.begin());
        y.touched = true;
        ++visits;
      },
      a, b, c);
  CHECK(visits == 7);
  CHECK(same_weights(b, c));
  CHECK(b.experts[1].weight.touched);
}

TEST_CASE("a struct whose first member has no weights is traversed") {
  struct Model {
    Empty nothing;
    Leaf leaf;
    static constexpr auto fields() {
      return Fields{Field{"nothing", &Model::nothing}, Field{"leaf", &Model::leaf}};
    }
  };
  const Model model;
  CHECK(count_weights(model) == 6);
  CHECK(count_weights(Empty{}) == 0);
}

TEST_CASE("a list is traversed by index, together with other trees") {
  std::vector<Leaf> a(3), b(3);
  std::vector<std::string> paths;
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& x, auto& y) {
        paths.push_back(path);
        x[0] = y[0] = static_cast<float>(paths.size());
      },
      a, b);
  CHECK(paths == std::vector<std::string>{"0.weight", "1.weight", "2.weight"});
  CHECK(a[2].weight[0] == 3);
  CHECK(b[1].weight[0] == 2);
}

TEST_CASE("count_weights counts the elements held, buffers included") {
  Mixture mixture;
  CHECK(count_weights(mixture) == 3 + 3 + 6 + 6 + 3 + 3 + 6);
  mixture.experts[1].weight.release();
  CHECK(count_weights(mixture) == 3 + 3 + 6 + 3 + 3 + 6);
}

TEST_CASE("set_zero clears elements and marks, touch sets the marks, and empty weights stay empty") {
  Mixture gradient;
  draw_weights(gradient, 1);
  gradient.experts[0].weight.release();
  touch(gradient.experts);
  CHECK(gradient.experts[1].weight.touched);
  CHECK_FALSE(gradient.router.gate.touched);
  set_zero(gradient);
  for_each_weight(
      [](const auto& w) {
        CHECK_FALSE(w.touched);
        for (const float x : w) CHECK(x == 0);
      },
      gradient);
  CHECK(gradient.experts[0].weight.empty());
}

TEST_CASE("the first element that is not finite is named by path and index") {
  Mixture mixture;
  CHECK(first_not_finite(mixture).empty());
  mixture.plain.weight[0] = std::numeric_limits<float>::infinity();
  CHECK(first_not_finite(mixture) == "weight[0]");
  mixture.experts[1].weight[4] = std::numeric_limits<float>::quiet_NaN();
  CHECK(first_not_finite(mixture) == "experts.1.weight[4]");
}

TEST_CASE("lists_every_field detects a missing member, and run-time options are not weights") {
  STATIC_REQUIRE(lists_every_field<Leaf>());
  STATIC_REQUIRE(lists_every_field<Mixture>());
  STATIC_REQUIRE(lists_every_field<WithOptions>());
  STATIC_REQUIRE(lists_every_field<Empty>());
  STATIC_REQUIRE_FALSE(lists_every_field<Forgetful>());
}
