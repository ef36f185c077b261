#include <moegpt/core/int8.hpp>

#include "support/catch.hpp"

using namespace moegpt;

TEST_CASE(
    "the scale of a block is its largest absolute value over 127, or 0 below the smallest normal float") {
  const float numbers[] = {0.5f, -254, 100};
  CHECK(INT8::scale_of(numbers, 3) == 2);
  CHECK(INT8::scale_of(numbers, 1) == 0.5f / 127);
  const float zeros[] = {0, 0}, tiny[] = {0x1p-126f, -0x1p-127f};
  CHECK(INT8::scale_of(zeros, 2) == 0);
  CHECK(INT8::scale_of(tiny, 2) == 0);
  CHECK(INT8::scale_of(nullptr, 0) == 0);
}

TEST_CASE("a number is rounded to the nearest integer of -127 .. 127, ties to even") {
  CHECK(int(INT8::rounded(-254, 2)) == -127);
  CHECK(int(INT8::rounded(3.1f, 2)) == 2);
  CHECK(int(INT8::rounded(5, 2)) == 2);
  CHECK(int(INT8::rounded(7, 2)) == 4);
  CHECK(int(INT8::rounded(300, 2)) == 127);
  CHECK(int(INT8::rounded(1, 0)) == 0);
}

TEST_CASE("inputs have one block for each 32, the last may be smaller") {
  CHECK((INT8::blocks(0) == 0 && INT8::blocks(1) == 1 && INT8::blocks(32) == 1 && INT8::blocks(33) == 2));
}
