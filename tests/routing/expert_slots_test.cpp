#include <moegpt/routing/expert_slots.hpp>

#include "support/catch.hpp"

#include <set>

using namespace moegpt;

namespace {
constexpr Index offset[] = {0, 2, 2, 5};  // of three experts
}

TEST_CASE("an expert has the slots from its offset to the next") {
  const ExpertSlots slots{offset};
  CHECK((slots.rows(0).first == 0 && slots.rows(0).count == 2));
  CHECK(slots.rows(1).count == 0);
  CHECK((slots.rows(2).first == 2 && slots.rows(2).count == 3));
}

TEST_CASE("a slot's number is that of its token and choice, wherever the slot lies") {
  const Index token[] = {4, 1, 1, 0, 4};
  const int choice[] = {1, 0, 1, 0, 0};
  const Pass pass{.shape = {2, 3}, .first_token = 100};
  const ExpertSlots slots{offset, token, choice, 2};
  CHECK(slots.number_of(0, pass) == pass.number_of(4) * 2 + 1);
  CHECK(slots.number_of(2, pass) == pass.number_of(1) * 2 + 1);
  std::set<Index> numbers;
  for (Index s = 0; s < 5; ++s) numbers.insert(slots.number_of(s, pass));
  CHECK(numbers.size() == 5);
  CHECK(ExpertSlots{offset}.number_of(3, pass) == pass.number_of(3));
}
