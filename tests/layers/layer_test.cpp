#include <moegpt/layers/layer.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {

// Empty layers, with and without a member that the concept requires.
struct Complete {
  using Scalar = float;
  static constexpr int dim_in = 2, dim_out = 3;
  using Tape = Nothing;
  using Scratch = Nothing;
  static constexpr auto fields() { return Fields<>{}; }
  void forward(In<2, float>, Out<3, float>, const Pass&) const {}
  void backward(In<2, float>, In<3, float>, Out<2, float>, Complete&, const Pass&) const {}
};
struct WithoutBackward {
  using Scalar = float;
  static constexpr int dim_in = 2, dim_out = 3;
  using Tape = Nothing;
  using Scratch = Nothing;
  static constexpr auto fields() { return Fields<>{}; }
  void forward(In<2, float>, Out<3, float>, const Pass&) const {}
};
struct WritesItsTapeInBackward {
  using Scalar = float;
  static constexpr int dim_in = 2, dim_out = 3;
  using Tape = Nothing;
  using Scratch = Nothing;
  static constexpr auto fields() { return Fields<>{}; }
  void forward(In<2, float>, Out<3, float>, Tape&, const Pass&) const {}
  void backward(In<2, float>, Tape&, In<3, float>, Out<2, float>, WritesItsTapeInBackward&,
                const Pass&) const {}
};
struct ChangesInForward {
  using Scalar = float;
  static constexpr int dim_in = 2, dim_out = 3;
  using Tape = Nothing;
  using Scratch = Nothing;
  static constexpr auto fields() { return Fields<>{}; }
  void forward(In<2, float>, Out<3, float>, const Pass&) {}
  void backward(In<2, float>, In<3, float>, Out<2, float>, ChangesInForward&, const Pass&) const {}
};
struct WithoutFields {
  using Scalar = float;
  static constexpr int dim_in = 2, dim_out = 3;
  using Tape = Nothing;
  using Scratch = Nothing;
  void forward(In<2, float>, Out<3, float>, const Pass&) const {}
  void backward(In<2, float>, In<3, float>, Out<2, float>, WithoutFields&, const Pass&) const {}
};

}  // namespace

TEST_CASE("the concept accepts a layer and rejects one that violates it") {
  STATIC_REQUIRE(Layer<Complete>);
  STATIC_REQUIRE_FALSE(Layer<WithoutBackward>);
  STATIC_REQUIRE_FALSE(Layer<WritesItsTapeInBackward>);  // invariant 3: the tape is const
  STATIC_REQUIRE_FALSE(Layer<ChangesInForward>);
  STATIC_REQUIRE_FALSE(Layer<WithoutFields>);
  STATIC_REQUIRE_FALSE(Layer<int>);
}
