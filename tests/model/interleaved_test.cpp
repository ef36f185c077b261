#include <moegpt/core/fields.hpp>
#include <moegpt/model/interleaved.hpp>

#include "../support/catch.hpp"

using namespace moegpt;

namespace {

struct A {
  Weight<float, 2> a;
  static constexpr auto fields() { return Fields{Field{"a", &A::a}}; }
};
struct B {
  Weight<float, 3> b;
  static constexpr auto fields() { return Fields{Field{"b", &B::b}}; }
};
// A A B A B: not in turns, or an index within a kind could be counted by the other kind.
struct Uneven {
  static constexpr int layers = 5;
  static constexpr bool second(int layer) { return layer == 2 || layer == 4; }
};
struct Never {
  static constexpr int layers = 2;
  static constexpr bool second(int) { return false; }
};
using List = Interleaved<A, B, Uneven>;

template <class X>
constexpr bool is_b = std::is_same_v<std::remove_cvref_t<X>, B>;

}  // namespace

TEST_CASE("each kind has an array of its own length") {
  CHECK(List::size() == 5);
  CHECK(List().first.size() == 3);
  CHECK(List().second.size() == 2);
}

TEST_CASE("a layer is reached once, by its number, as an element of its kind") {
  List list;
  for (int i = 0; i < 5; ++i) {
    int calls = 0;
    list.at_layer(i, [&](auto& element) {
      ++calls;
      CHECK(is_b<decltype(element)> == Uneven::second(i));
      for_each_weight([&](auto& w) { w[0] = static_cast<float>(i); }, element);
    });
    CHECK(calls == 1);
  }
  CHECK(list.first[0].a[0] == 0);
  CHECK(list.first[1].a[0] == 1);
  CHECK(list.second[0].b[0] == 2);
  CHECK(list.first[2].a[0] == 3);
  CHECK(list.second[1].b[0] == 4);
}

TEST_CASE("several lists are walked in lock-step") {
  List list, other;
  for (int i = 0; i < 5; ++i)
    list.at_layer(i, [](auto& x, auto& y) { CHECK(std::is_same_v<decltype(x), decltype(y)>); }, other);
}

TEST_CASE("a path keeps the number of the layer, whatever its kind") {
  List list;
  std::vector<std::string> paths;
  for_each_named_weight([&](const std::string& path, Kind, const auto&) { paths.push_back(path); }, list);
  CHECK(paths == std::vector<std::string>{"0.a", "1.a", "2.b", "3.a", "4.b"});
}

TEST_CASE("a list of one kind has no element of the other") {
  const Interleaved<A, B, Never> list;
  int seen = 0;
  for (int i = 0; i < list.size(); ++i) list.at_layer(i, [&](const auto&) { ++seen; });
  CHECK(seen == 2);
  CHECK(list.second.size() == 0);
}

TEST_CASE("beside a list, one per kind is the same element for each layer of the kind") {
  List list;
  OnePerKind<A, B, Uneven> shared;
  for (int i = 0; i < 5; ++i)
    list.at_layer(
        i,
        [&](auto& x, auto& one) {
          CHECK(std::is_same_v<decltype(x), decltype(one)>);
          for_each_weight([&](auto& w) { w[0] += 1; }, one);
        },
        shared);
  CHECK(shared.first[0].a[0] == 3);
  CHECK(shared.second[0].b[0] == 2);
  CHECK(OnePerKind<A, B, Never>().second.size() == 0);
}
