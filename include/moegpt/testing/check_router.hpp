#pragma once
// check_router: examines what a router promises besides its derivatives (which gradcheck examines), of any
// recipe, ours or yours.
#include <moegpt/moe/metrics.hpp>
#include <moegpt/testing/examine_plan.hpp>

#include <cstring>

namespace moegpt::inline MOEGPT_BUILD {

struct RouterCheckOptions {
  Shape shape{3, 50};        // of the batches; more than 64 tokens, or threads have nothing to share
  ModelOptions options{};    // capacity_factor has no effect: none and 0.4 are examined
  Objective objective{};     // a load loss, for one
  int task = 0;              // for routers that have something for each task
  int vocab = 31;            // ids lie in 0 .. vocab - 1, for routers that read them
  std::uint64_t seed = 1;
  int draws = 3;             // routers and batches examined, each without a key and with one
  double spread = 0.5;       // standard deviation of weights; that of tokens is twice as large
};

struct RouterReport {
  bool ok = true;
  std::string complaint;     // empty if ok: what was found and what to do
  explicit operator bool() const { return ok; }
};

namespace testing {

// Tokens and their ids.
template <int D>
struct RouterInput {
  Tokens<D, float> x;
  Buffer<int> ids;

  explicit RouterInput(Index tokens) : x(tokens), ids(tokens) {}
  void draw(Index n, const RouterCheckOptions& options, Rng& rng) {
    for (int i = 0; i < D; ++i) x[n][i] = static_cast<float>(2 * options.spread * rng.normal());
    ids[n] = static_cast<int>(rng.below(static_cast<std::uint64_t>(options.vocab)));
  }
  void copy(Index to, const RouterInput& from, Index n) {
    std::copy_n(from.x[n], D, x[to]);
    ids[to] = from.ids[n];
  }
};

// One router and one batch of tokens.
template <class Recipe, int D>
struct RouterExamination {
  using R = typename Recipe::template For<D, float>;
  using Input = RouterInput<D>;
  static constexpr int E = Recipe::experts, K = Recipe::active;
  static constexpr DropRule rule = drop_rule_of<Recipe>();
  static constexpr bool tokens_compete = !Recipe::causal || rule.order == Drop::never;

  struct Route {
    RoutingPlan<float> plan;
    typename R::Tape tape;
    Buffer<int> expert;   // [tokens, K] of the slot, or no_expert
    Route() { plan.drop = rule; }
  };

  const RouterCheckOptions& options;
  Rng& rng;
  Input batch;
  RoutingContext routing;
  Pass pass;
  R router;
  Route all;              // the batch in one call, on one thread, in fresh memory

  RouterExamination(const RouterCheckOptions& options_, Rng& rng_, bool keyed)
      : options(options_), rng(rng_), batch(drawn(options.shape.tokens())),
        routing{.objective = options.objective, .ids = batch.ids.data(), .task = options.task},
        pass{.shape = options.shape, .options = options.options, .partial = true, .routing = &routing} {
    pass.options.capacity_factor = 0;
    if (keyed) pass.key = Key{rng.bits()};
    for_each_weight([&](auto& w) {
      for (auto& v : w) v = static_cast<float>(options.spread * rng.normal());
    }, router);
  }
  RouterExamination(const RouterExamination&) = delete;   // its pass points into it

  void examine() {
    run("", all, batch, pass);
    examine_plans<R>(router, rule, batch.x, pass);
    examine_values("", all);
    examine_allowed();
    if constexpr (rule.order != Drop::never) examine_drops();
    examine_memory();
    examine_threads();
    if constexpr (Recipe::causal) {
      examine_future("", pass);
      examine_positions();
    }
    if constexpr (!tokens_compete) {
      examine_alone();
      examine_padding();
    }
    if constexpr (Recipe::causal) examine_future("under a capacity factor of 0.4: ", with_capacity(0.4));
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
    for (Index n = 0; n < tokens; ++n) input.draw(n, options, rng);
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
      wrong(when, "the plan has ", plan.choices, " choices among ", plan.experts, " experts, but the recipe "
            "says active = ", K, " and experts = ", E, ": call plan.resize(pass.tokens(), active, experts)");
    const Buffer<int>* chosen = nullptr;
    if constexpr (HasChoices<typename R::Tape>) chosen = &route.tape.chosen;
    examine_plan(when, plan, chosen, rule, as);
    experts_of_pairs(plan, route.expert);
  }

  // Whether token n of the batch has the same experts, gates, scores and lse in two routes, bit for bit. It
  // is number i of the one and k of the other.
  void compare(const std::string& when, Index n, const Route& a, Index i, const char* in_a, const Route& b,
               Index k, const std::string& in_b, const char* advice) const {
    const std::string token = when + text_of_token(n);
    const auto same = [&](float u, float v, const auto&... what) {
      if (std::memcmp(&u, &v, sizeof u) != 0)
        wrong(token, what..., " is ", digits(u), in_a, ", but ", digits(v), in_b, ": ", advice);
    };
    for (int j = 0; j < K; ++j) {
      const int e = a.expert[i * K + j], f = b.expert[k * K + j];
      if (e != f) wrong(token, "choice ", j, " is ", name(e), in_a, ", but ", name(f), in_b, ": ", advice);
      if (e == no_expert) continue;
      const Index of_a = a.plan.slot[i * K + j], of_b = b.plan.slot[k * K + j];
      same(a.plan.gate[of_a], b.plan.gate[of_b], "the gate of expert ", e);
    }
    for (int e = 0; e < E; ++e) same(a.tape.score[i][e], b.tape.score[k][e], "the score of expert ", e);
    same(*a.tape.lse[i], *b.tape.lse[k], "lse");
  }
  void compare_all(const char* in_all, const Route& other, const std::string& in_other,
                   const char* advice) const {
    for (Index n = 0; n < pass.tokens(); ++n) compare("", n, all, n, in_all, other, n, in_other, advice);
    if constexpr (HasExpectedLoad<typename R::Tape>)
      for (int e = 0; e < E; ++e)
        if (const float &u = all.tape.load[e], &v = other.tape.load[e]; std::memcmp(&u, &v, sizeof u) != 0)
          wrong("the load of expert ", e, " is ", digits(u), in_all, ", but ", digits(v), in_other, ": ",
                advice);
  }
  std::string text_of_token(Index n) const {
    return "token " + std::to_string(n) + " (sequence " + std::to_string(n / length()) + ", position " +
           std::to_string(n % length()) + "): ";
  }
  static std::string name(int expert) { return expert == no_expert ? "none" : "expert " + std::to_string(expert); }
  static std::string digits(float x) {   // all of them: numbers that differ look different
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", static_cast<double>(x));
    return text;
  }

  // Of a route without padding.
  static void examine_values(const std::string& when, const Route& route) {
    const RoutingPlan<float>& plan = route.plan;
    if (plan.slot_count() == 0) wrong(when, "no token is sent to any expert: there is nothing to examine");
    const auto demand_finite = [&](float value, const char* what, Index n) {
      if (!std::isfinite(value))
        wrong(when, what, " of token ", n, " is ", value, ", expected a finite number");
    };
    for (Index s = 0; s < plan.slot_count(); ++s) demand_finite(plan.gate[s], "a gate", plan.token[s]);
    for (Index n = 0; n < plan.tokens; ++n) {
      for (int e = 0; e < E; ++e) demand_finite(route.tape.score[n][e], "a score", n);
      demand_finite(*route.tape.lse[n], "lse", n);
    }
  }
  void examine_allowed() {
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
      examine_values(when, route);
      for (Index n = 0; n < pass.tokens(); ++n)
        for (int e = 0; e < E; ++e)
          if (!allowed[e] && route.tape.score[n][e] != 0)
            wrong(when, "the score of expert ", e, ", which is not allowed, is ", route.tape.score[n][e],
                  " for token ", n, ", expected 0: make its logit minus infinity");
    }
  }
  // Whether the pairs of the batch lose their slots as the drop rule says. An order by gates may have read
  // others than those of the plan (Masked), so there only loads are compared.
  void examine_drops() {
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
        wrong(when, "expert ", e, " is wanted ", kept.plan.wanted[e], " times, but ", expected.wanted[e],
              " times without: choose without regard to capacity, plan.assign(chosen, gate, pass) drops");
      if (kept.plan.load(e) != expected.load(e))
        wrong(when, "expert ", e, " takes ", kept.plan.load(e), " tokens, but ", expected.load(e),
              " by the drop rule of the recipe: call plan.assign(chosen, gate, pass)");
    }
    if (rule.order == Drop::batch_prioritised || rule.order == Drop::probability) return;
    for (Index pair = 0; pair < gate.size(); ++pair)
      if ((kept.plan.slot[pair] == no_slot) != (expected.slot[pair] == no_slot))
        wrong(when, "choice ", pair % K, " of token ", pair / K, " is ",
              expected.slot[pair] == no_slot ? "kept, but dropped" : "dropped, but kept",
              " by the drop rule of the recipe: call plan.assign(chosen, gate, pass)");
  }
  void examine_memory() {
    Route used;
    for_each_other_pass(pass, [&](const Pass& other) { run("", used, drawn(other.tokens()), other); });
    run("", used, batch, pass);
    compare_all(" in fresh memory", used, " in memory that other passes used",
                "set all of the tape that is read, after tape.resize(pass)");
  }
  void examine_threads() {
    for (const int threads : {2, 8}) {
      Pass many = pass;
      many.exec.threads = threads;
      Route route;
      run("", route, batch, many);
      compare_all(" with one thread", route, " with " + std::to_string(threads),
                  "cut work by shape, not by threads, and let each task write what no other task does");
    }
  }
  void examine_future(const std::string& when, const Pass& as) {
    Route before, after;
    run(when, before, batch, as);
    for (Index b = 0; b < pass.shape.batch; ++b)
      for (const Index first : {Index{1}, length() / 2, length() - 1}) {
        Input other = batch;
        for (Index t = first; t < length(); ++t) other.draw(b * length() + t, options, rng);
        run(when, after, other, as);
        const std::string exchanged = " if tokens from position " + std::to_string(first) + " on are others";
        for (Index n = b * length(); n < b * length() + first; ++n)
          compare(when, n, before, n, "", after, n, exchanged,
                  "let a route depend on no later token, or say causal = false");
      }
  }
  // As in generation.
  void examine_positions() {
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
  void examine_alone() {
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
  // From none in the first sequence to all of the last.
  void examine_padding() {
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

// Examines a recipe: check_router<TopKRouter<8, 2>>(), without a key and with one, in float, with random
// weights, tokens of width D and ids. Laws are those of layers/layer.hpp.
//   plan       is for the pass's tokens and the recipe's experts and choices; the slots of an expert stand in
//              token order; padding gets none; no token chooses an expert twice; some token has an expert
//   values     gates, scores and lse are finite
//   allowed    an expert that is not allowed gets no token and scores of 0, even if only one is allowed
//   capacity   changes no choice, and pairs are dropped as the drop rule says
//   memory     what other passes left in plan and tape does not matter
//   threads    two and eight give the bits of one (law 5)
// of a causal recipe:
//   future     later tokens change nothing, under a capacity either
//   position   one position at a time, as in generation, gives the bits of the batch
// of a causal recipe without Drop::never:
//   alone      a token by itself has the route that it has in the batch, which law 6 takes as given
//   padding    changes no route of another token
// An exception of the router itself passes through.
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
      const std::string complaint = testing::complaint_of([&] {
        testing::RouterExamination<Recipe, D>(options, rng, keyed).examine();
      });
      if (!complaint.empty()) return {false, (keyed ? "with a key: " : "") + complaint};
    }
  return {};
}

}  // namespace moegpt::inline MOEGPT_BUILD
