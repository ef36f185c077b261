#include <moegpt/routing/routing_context.hpp>

#include "support/catch.hpp"
#include "support/routed_pass.hpp"

using namespace moegpt;

TEST_CASE("a pass without a routing context has a default one: no losses, and all experts allowed") {
  const Pass pass;
  const RoutingContext& routing = routing_of(pass);
  CHECK(weighted(routing.objective, RouterLosses<double>{1, 1, 1, 1, 1, 1}) == 0);
  CHECK(routing.ids == nullptr);
  CHECK(routing.task == 0);
  for (const int e : {0, 1, 1 << 16}) CHECK(is_allowed(e, pass));
}

TEST_CASE("a pass reads the routing context it points to, and so does the same pass inside a layer") {
  const bool allowed[3] = {true, false, true};
  const RoutedPass pass({.key = Key{1}}, {.objective = {.z = 0.5}, .allowed = allowed, .task = 2});
  const Pass inner = pass.at_layer(1);
  for (const Pass* p : {static_cast<const Pass*>(&pass), &inner}) {
    CHECK(&routing_of(*p) == &pass.context);
    for (int e = 0; e < 3; ++e) CHECK(is_allowed(e, *p) == allowed[e]);
  }
}

TEST_CASE("experts drop out at the rate of the pass or at one of their own, and never without a key") {
  const Pass common{.dropout = 0.3, .key = Key{1}};
  CHECK(applied_expert_dropout(common) == 0.3);
  RoutedPass own(common, {});
  CHECK(applied_expert_dropout(own) == 0.3);
  own.context.objective.dropout = 0.2;  // a model's, which sets the pass's
  CHECK(applied_expert_dropout(own) == 0.3);
  for (const double rate : {0.0, 0.6}) {
    own.context.objective.expert_dropout = rate;
    CHECK(applied_expert_dropout(own) == rate);
  }
  CHECK(own.applied_dropout() == 0.3);
  own.key.reset();
  CHECK(applied_expert_dropout(own) == 0);
}
