#include <moegpt/text/token_view.hpp>

#include "../support/catch.hpp"

using namespace moegpt;

namespace {

struct Squares {
  Index size() const { return 100; }
  void copy(Index first, Index count, int* to) const {
    for (Index i = 0; i < count; ++i) to[i] = static_cast<int>((first + i) * (first + i));
  }
};

}  // namespace

TEST_CASE("a view reads ids of a vector, a span and any source, and parts of parts") {
  const std::vector<int> ids{3, 1, 4, 1, 5, 9};
  const TokenView view = ids;
  CHECK(view.size() == 6);
  CHECK(view[5] == 9);
  CHECK(TokenView(std::span<const int>(ids).subspan(2))[0] == 4);
  CHECK(view.part(1, 4).part(2, 2)[1] == 5);
  CHECK(view.part(6, 0).empty());
  CHECK(TokenView().empty());
  const Squares squares;
  CHECK(TokenView(squares).part(10, 5)[2] == 144);
}

TEST_CASE("a run outside a view is rejected") {
  const std::vector<int> ids{3, 1, 4};
  const TokenView view = ids;
  int to[8];
  CHECK_THROWS_WITH(view.copy(1, 3, to), "moegpt: 3 tokens from number 1 on were asked for, of 3");
  CHECK_THROWS_AS(view.copy(-1, 1, to), std::invalid_argument);
  CHECK_THROWS_AS(view.copy(0, -1, to), std::invalid_argument);
  CHECK_THROWS_AS(view.part(1, 2)[2], std::invalid_argument);
  CHECK_THROWS_AS(view.part(2, 2), std::invalid_argument);
  CHECK_THROWS_AS(view.copy(PTRDIFF_MAX, 1, to), std::invalid_argument);
}

TEST_CASE("pieces of a view are in order and complete") {
  const Squares squares;
  Index next = 0;
  for_each_token_piece(
      squares,
      [&](Index first, std::span<const int> ids) {
        CHECK(first == next);
        CHECK(ids.size() == (next < 98 ? 7 : 2));
        for (const int id : ids) {
          CHECK(id == next * next);
          ++next;
        }
      },
      7);
  CHECK(next == 100);
}
