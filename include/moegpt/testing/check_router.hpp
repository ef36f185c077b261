#pragma once
// check_router: checks what any router specification, built-in or user-defined, guarantees besides its
// derivatives, which gradcheck checks.
#include <moegpt/moe/metrics.hpp>
#include <moegpt/testing/routes.hpp>
#include <moegpt/testing/verify_plan.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct RouterCheckOptions {
  Shape shape{3, 50};      // of the batches; more than 64 tokens, so that threads have tasks of their own
  ModelOptions options{};  // capacity_factor has no effect: 0 (none) and 0.4 are checked
  Objective objective{};   // such as a load loss
  int task = 0;            // task id, for routers that depend on it
  int vocab = 31;          // ids are 0 .. vocab - 1, for routers that read them
  std::uint64_t seed = 1;
  int draws = 3;        // routers and batches, each checked without a key and with one
  double spread = 0.5;  // standard deviation of weights; twice that of tokens
};

struct RouterReport {
  bool ok = true;
  std::string message;  // what was found and what to do; empty if ok
  explicit operator bool() const { return ok; }
};

namespace testing {

// The checks of one router on one batch of tokens. Each throws a Failure.
template <class Recipe, int D>
struct RouterChecks {
  using R = typename Recipe::template For<D, float>;
  using Input = RouterInput<D>;
  using Route = testing::Route<Recipe, D>;
  static constexpr int E = Recipe::experts, K = Recipe::active;
  static constexpr DropRule rule = drop_rule_of<Recipe>();
  static constexpr bool tokens_compete = !Recipe::causal || rule.order == Drop::never;

  const RouterCheckOptions& options;
  Rng& rng;
  Input batch;
  RoutingContext routing;
  Pass pass;
  R router;
  Route all;  // of the batch in one call, on one thread, in fresh memory

  RouterChecks(const RouterCheckOptions& options_, Rng& rng_, bool keyed)
      : options(options_),
        rng(rng_),
        batch(drawn(options.shape.tokens())),
        routing{.objective = options.objective, .ids = batch.ids.data(), .task = options.task},
        pass{.shape = options.shape, .options = options.options, .partial = true, .routing = &routing} {
    pass.options.capacity_factor = 0;
    if (keyed) pass.key = Key{rng.bits()};
    for_each_weight(
        [&](auto& w) {
          for (auto& v : w) v = static_cast<float>(options.spread * rng.normal());
        },
        router);
  }
  RouterChecks(const RouterChecks&) = delete;  // pass points into it

  void run_all() {
    run("", all, batch, pass);
    verify_plans<R>(router, rule, batch.x, pass);
    check_finite("", all);
    check_allowed();
    if constexpr (rule.order != Drop::never) check_drops();
    check_memory();
    check_threads();
    if constexpr (Recipe::causal) {
      check_future("", pass);
      check_positions();
    }
    if constexpr (!tokens_compete) {
      check_alone();
      check_padding();
    }
    if constexpr (Recipe::causal) check_future("under a capacity factor of 0.4: ", with_capacity(0.4));
  }

 private:
  Index length() const { return pass.shape.length; }
  Pass with_capacity(double factor) const {
    Pass limited = pass;
    limited.options.capacity_factor = factor;
    return limited;
  }
  Input drawn(Index tokens) {
    Input input(tokens);
    for (Index n = 0; n < tokens; ++n) input.draw(n, options.spread, options.vocab, rng);
    return input;
  }
  void run(const std::string& when, Route& route, const Input& input, const Pass& given) {
    RoutingContext context = routing_of(given);
    context.ids = input.ids.data();
    Pass as = given;
    as.routing = &context;
    router.forward(input.x, route.plan, route.tape, as);
    const RoutingPlan<float>& plan = route.plan;
    if (plan.experts != E || plan.choices != K)
      fail(when, "the plan has ", plan.choices, " choices among ", plan.experts,
           " experts, but the recipe "
           "says active = ",
           K, " and experts = ", E, ": call plan.resize(pass.tokens(), active, experts)");
    const Buffer<int>* chosen = nullptr;
    if constexpr (HasChoices<typename R::Tape>) chosen = &route.tape.chosen;
    verify_plan(when, plan, chosen, rule, as);
    experts_of_pairs(plan, route.expert);
  }

  // Fails unless token n of the batch has the same route in `a`, as token i, and in `b`, as token k.
  void compare(const std::string& when, Index n, const Route& a, Index i, const char* in_a, const Route& b,
               Index k, const std::string& in_b, const char* advice) const {
    compare_routes(when + text_of_token(n), a, i, in_a, b, k, in_b, advice);
  }
  void compare_all(const char* in_all, const Route& other, const std::string& in_other,
                   const char* advice) const {
    for (Index n = 0; n < pass.tokens(); ++n) compare("", n, all, n, in_all, other, n, in_other, advice);
    if constexpr (HasExpectedLoad<typename R::Tape>)
      for (int e = 0; e < E; ++e)
        if (const float &u = all.tape.load[e], &v = other.tape.load[e]; std::memcmp(&u, &v, sizeof u) != 0)
          fail("the load of expert ", e, " is ", digits(u), in_all, ", but ", digits(v), in_other, ": ",
               advice);
  }
  std::string text_of_token(Index n) const {
    return "token " + std::to_string(n) + " (sequence " + std::to_string(n / length()) + ", position " +
           std::to_string(n % length()) + "): ";
  }

  void check_allowed() {
    for (const bool alone : {false, true}) {
      const std::string when = alone ? "with one expert allowed: " : "with every second expert allowed: ";
      Buffer<bool> allowed(E);
      for (int e = 0; e < E; ++e) allowed[e] = alone ? e == E - 1 : e % 2 == 0;
      RoutingContext context = routing;
      context.allowed = allowed.data();
      Pass some = pass;
      some.routing = &context;
      Route route;
      run(when, route, batch, some);
      check_finite(when, route);
      for (Index n = 0; n < pass.tokens(); ++n)
        for (int e = 0; e < E; ++e)
          if (!allowed[e] && route.tape.score[n][e] != 0)
            fail(when, "the score of expert ", e, ", which is not allowed, is ", route.tape.score[n][e],
                 " for token ", n, ", expected 0: make its logit minus infinity");
    }
  }
  // Whether the drop policy decides which (token, expert) pairs are dropped. An order by gates may use gates
  // other than the plan's (Masked), so there only loads are compared.
  void check_drops() {
    const char* when = "under a capacity factor of 0.4: ";
    const Pass limited = with_capacity(0.4);
    Route kept;
    run(when, kept, batch, limited);
    RoutingPlan<float> expected;
    expected.drop = rule;
    expected.resize(pass.tokens(), K, E);
    Buffer<float> gate(pass.tokens() * K);
    for (Index pair = 0; pair < gate.size(); ++pair)
      if (const Index s = all.plan.slot[pair]; s != no_slot) gate[pair] = all.plan.gate[s];
    expected.assign(all.expert.data(), gate.data(), limited);
    for (int e = 0; e < E; ++e) {
      if (kept.plan.wanted[e] != expected.wanted[e])
        fail(when, "expert ", e, " is wanted ", kept.plan.wanted[e], " times, but ", expected.wanted[e],
             " times without: choose without regard to capacity, plan.assign(chosen, gate, pass) drops");
      if (kept.plan.load(e) != expected.load(e))
        fail(when, "expert ", e, " takes ", kept.plan.load(e), " tokens, but ", expected.load(e),
             " by the drop rule of the recipe: call plan.assign(chosen, gate, pass)");
    }
    if (rule.order == Drop::batch_prioritised || rule.order == Drop::probability) return;
    for (Index pair = 0; pair < gate.size(); ++pair)
      if ((kept.plan.slot[pair] == no_slot) != (expected.slot[pair] == no_slot))
        fail(when, "choice ", pair % K, " of token ", pair / K, " is ",
             expected.slot[pair] == no_slot ? "kept, but dropped" : "dropped, but kept",
             " by the drop rule of the recipe: call plan.assign(chosen, gate, pass)");
  }
  void check_memory() {
    Route used;
    for_each_other_pass(pass, [&](const Pass& other) { run("", used, drawn(other.tokens()), other); });
    run("", used, batch, pass);
    compare_all(" in fresh memory", used, " in memory that other passes used",
                "set all of the tape that is read, after tape.resize(pass)");
  }
  void check_threads() {
    for (const int threads : {2, 8}) {
      Pass many = pass;
      many.exec.threads = threads;
      Route route;
      run("", route, batch, many);
      compare_all(" with one thread", route, " with " + std::to_string(threads),
                  "cut work by shape, not by threads, and let each task write what no other task does");
    }
  }
  void check_future(const std::string& when, const Pass& as) {
    Route before, after;
    run(when, before, batch, as);
    for (Index b = 0; b < pass.shape.batch; ++b)
      for (const Index first : {Index{1}, length() / 2, length() - 1}) {
        Input other = batch;
        for (Index t = first; t < length(); ++t)
          other.draw(b * length() + t, options.spread, options.vocab, rng);
        run(when, after, other, as);
        const std::string exchanged = " if tokens from position " + std::to_string(first) + " on are others";
        for (Index n = b * length(); n < b * length() + first; ++n)
          compare(when, n, before, n, "", after, n, exchanged,
                  "let a route depend on no later token, or say causal = false");
      }
  }
  // One position at a time, as in generation.
  void check_positions() {
    Pass one = pass;
    one.shape.length = 1;
    one.sequence_stride = length();
    Input input(one.tokens());
    Route route;
    for (Index t = 0; t < length(); ++t) {
      one.first_position = t;
      for (Index b = 0; b < one.tokens(); ++b) input.copy(b, batch, b * length() + t);
      run("one position at a time: ", route, input, one);
      for (Index b = 0; b < one.tokens(); ++b) {
        const Index n = b * length() + t;
        compare("", n, all, n, " in the batch", route, b, " one position at a time",
                "let a route depend on no other token of its sequence, and its noise on pass.number_of(n)");
      }
    }
  }
  void check_alone() {
    Pass one = pass;
    one.shape = {1, 1};
    Input input(1);
    Route route;
    for (Index n = 0; n < pass.tokens(); ++n) {
      one.first_token = n;
      input.copy(0, batch, n);
      run("a token alone: ", route, input, one);
      compare("", n, all, n, " in the batch", route, 0, " alone",
              "let a route depend on no other token, and its noise on pass.number_of(n); if tokens compete "
              "by the router's own rule, say static constexpr DropRule drop{.order = Drop::never}");
    }
  }
  // From no padding in the first sequence to only padding in the last.
  void check_padding() {
    Buffer<Index> lengths(pass.shape.batch);
    const Index last = pass.shape.batch - 1;
    for (Index b = 0; b <= last; ++b) lengths[b] = length() * (last - b) / last;
    Pass padded = pass;
    padded.lengths = lengths.data();
    Route route;
    run("with padding: ", route, batch, padded);
    for (Index n = 0; n < pass.tokens(); ++n)
      if (!padded.is_padding(n))
        compare("", n, all, n, " without padding", route, n, " with padding",
                "let no route depend on padding");
  }
};

}  // namespace testing

// Checks a router specification, check_router<TopKRouter<8, 2>>(): without a key and with one, in float, with
// random weights, tokens of width D and ids. Invariants are those of layers/layer.hpp. For every router:
//   plan       has the pass's tokens and the specification's experts and choices; the slots of an expert are
//   in
//              token order; padding has none; no token chooses an expert twice; some token has an expert
//   values     gates, scores and lse are finite
//   allowed    an expert that is not allowed has no tokens and scores of 0, even if only one is allowed
//   capacity   changes no choice, and the drop policy decides which pairs are dropped
//   memory     results do not depend on what other passes left in plan and tape
//   threads    results with two and eight threads have the bits of one (invariant 5)
// For causal routers:
//   future     later tokens change nothing, also under a capacity
//   position   one position at a time, as in generation, has the bits of the batch
// For causal routers without Drop::never:
//   alone      a token alone has its route in the batch, which invariant 6 requires
//   padding    changes no route of another token
// Exceptions of the router pass through.
template <Router Recipe, int D = 6>
RouterReport check_router(const RouterCheckOptions& options = {}) {
  const Shape shape = options.shape;
  check(shape.batch >= 2 && shape.length >= 2, "check_router: shape is ", shape.batch, " x ", shape.length,
        ": at least 2 sequences of 2 tokens are needed, or a token has no other beside it");
  check(options.draws >= 1 && options.vocab >= 2, "check_router: draws is ", options.draws, " and vocab ",
        options.vocab, ", expected at least 1 and 2");
  check(options.spread > 0 && std::isfinite(options.spread), "check_router: spread is ", options.spread,
        ", expected a finite number above 0: without it all tokens are alike");
  for (int draw = 0; draw < options.draws; ++draw)
    for (const bool keyed : {false, true}) {
      Rng rng{Key{options.seed}.with(Purpose::check, 2 * draw + keyed)};
      const std::string message =
          testing::failure_of([&] { testing::RouterChecks<Recipe, D>(options, rng, keyed).run_all(); });
      if (!message.empty()) return {false, (keyed ? "with a key: " : "") + message};
    }
  return {};
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
