#include <moegpt/core/fields.hpp>
#include <moegpt/core/heap_array.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <memory>
#include <stdexcept>

using namespace moegpt;

namespace {

struct Leaf {
  Weight<float, 2, 3> weight;
  static constexpr auto fields() { return Fields{Field{"weight", &Leaf::weight}}; }
};
struct Mixture {
  Leaf router;
  HeapArray<Leaf, 3> experts;
  [[no_unique_address]] HeapArray<Leaf, 0> none;
  static constexpr auto fields() {
    return Fields{Field{"router", &Mixture::router}, Field{"experts", &Mixture::experts, Kind::sparse},
                  Field{"none", &Mixture::none}};
  }
};

template <class Tree>
std::vector<std::string> paths_of(const Tree& tree) {
  std::vector<std::string> paths;
  for_each_named_weight([&](const std::string& path, Kind, const auto&) { paths.push_back(path); }, tree);
  return paths;
}

}  // namespace

TEST_CASE("a heap array has the size of one pointer, and none if it has no elements") {
  STATIC_REQUIRE(sizeof(HeapArray<Leaf, 1000>) == sizeof(void*));
  STATIC_REQUIRE(std::is_empty_v<HeapArray<Leaf, 0>>);
  STATIC_REQUIRE(sizeof(Mixture) == sizeof(Leaf) + sizeof(void*));
}

TEST_CASE("a new heap array has all its elements, and they are zero") {
  const HeapArray<int, 5> numbers;
  CHECK(numbers.size() == 5);
  for (const int x : numbers) CHECK(x == 0);
  const HeapArray<Leaf, 3> leaves;
  CHECK(count_weights(leaves) == 18);
  CHECK(leaves.end() - leaves.begin() == 3);
  CHECK(&leaves[2] == leaves.data() + 2);
}

TEST_CASE("the elements of a const heap array are const") {
  using List = HeapArray<int, 2>;
  STATIC_REQUIRE(std::is_same_v<decltype(std::declval<const List&>()[0]), const int&>);
  STATIC_REQUIRE(std::is_same_v<decltype(std::declval<const List&>().data()), const int*>);
  STATIC_REQUIRE(std::is_same_v<decltype(std::declval<const List&>().begin()), const int*>);
  STATIC_REQUIRE(std::is_same_v<decltype(std::declval<List&>()[0]), int&>);
  STATIC_REQUIRE(std::is_same_v<decltype(std::declval<const HeapArray<int, 0>&>().data()), const int*>);
}

TEST_CASE("copies of a heap array are deep") {
  HeapArray<int, 3> a;
  a[1] = 7;
  HeapArray<int, 3> b = a;
  b[1] = 8;
  CHECK(a[1] == 7);
  int* const place = b.data();
  b = a;
  CHECK(b[1] == 7);
  CHECK(b.data() == place);  // assignment takes no memory
  HeapArray<int, 3>& self = b;
  b = self;
  CHECK(b[1] == 7);
}

TEST_CASE("a moved-from mixture has all experts with empty weights, and can be assigned again") {
  Mixture a;
  draw_weights(a, 1);
  const Mixture copy = a;
  const float* const memory = a.experts[2].weight.data();
  Mixture b = std::move(a);
  CHECK(b.experts[2].weight.data() == memory);  // the elements are not copied
  CHECK(same_weights(b, copy));
  CHECK(paths_of(a) == paths_of(copy));
  CHECK(count_weights(a) == 0);
  for_each_weight([](auto& w) { w.allocate(); }, a);
  CHECK(count_weights(a) == count_weights(copy));
  a = std::move(b);
  CHECK(same_weights(a, copy));
  CHECK(paths_of(b) == paths_of(copy));
  STATIC_REQUIRE(std::is_nothrow_move_constructible_v<Mixture>);  // a std::vector of models moves them
  STATIC_REQUIRE(std::is_nothrow_move_assignable_v<Mixture>);
}

TEST_CASE("a heap array is traversed as any other list, and one without elements is skipped") {
  CHECK(paths_of(Mixture{}) == std::vector<std::string>{"router.weight", "experts.0.weight",
                                                        "experts.1.weight", "experts.2.weight"});
  STATIC_REQUIRE(lists_every_field<Mixture>());
  int seen = 0;
  for (const Leaf& leaf : HeapArray<Leaf, 0>{}) seen += static_cast<int>(leaf.weight.size());
  CHECK(seen == 0);
}

TEST_CASE("an exception of an element's constructor leaks no element") {
  static int alive = 0;
  struct Fifth {
    Fifth() {
      if (alive == 4) throw std::runtime_error("no room");
      ++alive;
    }
    ~Fifth() { --alive; }
  };
  using List = HeapArray<Fifth, 6>;
  CHECK_THROWS_AS(List(), std::runtime_error);
  CHECK(alive == 0);
}
