#pragma once
// A pass that holds the routing context it points to.
#include <moegpt/routing/routing_context.hpp>

struct RoutedPass : moegpt::Pass {
  moegpt::RoutingContext context;
  RoutedPass(const moegpt::Pass& pass, const moegpt::RoutingContext& context_)
      : Pass(pass), context(context_) {
    routing = &context;
  }
  RoutedPass(const RoutedPass&) = delete;
};
