// Limits of slots that router specifications declare, and the memory that is reserved.
#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/moe/moe_layer.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

using Small = Expert<6, 32, Activation::gelu, double>;

// 64 choices per token, of which it uses the two largest.
struct TwoOfMany {
  static constexpr bool biased = false;
  template <class T>
  static int select(const Candidate<T>& token, int* chosen) {
    kernels::top_k(token.z, token.experts, 2, chosen);
    return 2;
  }
};
using Silent = TokenChoiceRouter<64, 64, Decisions<SoftmaxScores, TwoOfMany, RenormalisedGates>>;
template <int Used>
struct Says : Silent {
  static Index max_slots(const Pass& pass) { return Used * pass.tokens(); }
};

template <class Recipe>
struct Run {
  using L = MoELayer<Recipe, Small>;
  L layer, grad;
  typename L::Tape tape;
  typename L::Scratch scratch;
  Tokens<6, double> y, dx;
  explicit Run(const Pass& pass) : y(pass.tokens()), dx(pass.tokens()) {
    draw_weights(layer, 1);
    const auto x = random_tokens<6, double>(pass.tokens(), 2),
               dy = random_tokens<6, double>(pass.tokens(), 3);
    layer.forward(x, y, tape, scratch, pass);
    layer.backward(x, tape, dy, dx, grad, scratch, pass);
  }
  // Memory of all buffers with a row per slot.
  Index bytes() const {
    const Index numbers = tape.expert.pre.count() * 32 + scratch.experts.expert.act.count() * 32 +
                          scratch.experts.expert.d_pre.count() * 32 + scratch.experts.d_output.count() * 6 +
                          scratch.output.count() * 6 + scratch.d_input.count() * 6 + scratch.d_gate.size() +
                          tape.plan.gate.size();
    return numbers * Index{sizeof(double)} + tape.plan.token.size() * Index{sizeof(Index)} +
           tape.plan.choice.size() * Index{sizeof(int)};
  }
};

}  // namespace

TEST_CASE("64 choices of which 2 are used need the memory of 2, and every bit is the same") {
  for (const Pass& pass : {Pass{.shape = {2, 20}}, Pass{.shape = {2, 20}, .dropout = 0.3, .key = Key{4}}}) {
    const Run<Silent> all(pass);
    const Run<Says<2>> said(pass);
    CHECK(said.tape.plan.slot_count() == 80);
    CHECK(said.bytes() * 32 == all.bytes());
    CHECK(same_bits(said.y, all.y));
    CHECK(same_bits(said.dx, all.dx));
    CHECK(same_weights(said.grad.router.logits, all.grad.router.logits));
    CHECK(same_weights(said.grad.experts, all.grad.experts));
    const Run<Masked<Says<2>>> masked(pass);
    CHECK(masked.bytes() == said.bytes());
    CHECK(masked.tape.router.unmasked_gate.size() == 80);
    CHECK(same_bits(masked.y, Run<Masked<Silent>>(pass).y));
  }
}

TEST_CASE("every drop policy drops the same pairs if a router limits its slots") {
  const auto examine = [](auto all, auto said) {
    const Pass pass{.shape = {2, 20}, .options = {.capacity_factor = 0.05}};
    const Run<decltype(all)> a(pass);
    const Run<decltype(said)> b(pass);
    CHECK(a.tape.plan.dropped() > 0);
    CHECK(b.tape.expert.pre.count() == 80);
    CHECK(same_bits(a.tape.plan.slot, b.tape.plan.slot));
    CHECK(same_bits(a.y, b.y));
  };
  examine(Silent{}, Says<2>{});
  examine(Dropping<Silent, Drop::slot_major>{}, Dropping<Says<2>, Drop::slot_major>{});
  examine(Dropping<Silent, Drop::batch_prioritised, Group::sequence>{},
          Dropping<Says<2>, Drop::batch_prioritised, Group::sequence>{});
  examine(Dropping<Silent, Drop::probability>{}, Dropping<Says<2>, Drop::probability>{});
}

TEST_CASE("a router that fills more slots than its limit is rejected, with what to return") {
  const std::string text = refusal([] { Run<Says<1>>({.shape = {2, 20}}); });
  CAPTURE(text);
  CHECK(text.find("routing plan: the tokens fill 80 slots, but there is room for 40: let the router's "
                  "max_slots(pass)") != std::string::npos);
}

TEST_CASE("a limit above all choices reserves all choices") {
  CHECK(max_slots_of<Says<65>>({.shape = {2, 20}}) == 64 * 40);
  CHECK(max_slots_of<Silent>({.shape = {2, 20}}) == 64 * 40);
  CHECK(max_slots_of<Says<2>>({.shape = {0, 20}}) == 0);
}

TEST_CASE(
    "expert choice reserves what its experts select, in groups of any kind, and padding needs no more") {
  const auto examine = [](auto recipe) {
    using R = decltype(recipe);
    const Index lengths[3] = {16, 0, 9};
    for (const Shape shape : {Shape{3, 16}, Shape{16, 3}, Shape{3, 1}})
      for (const double least : {0.0, 1.0, 5.0}) {
        Pass pass{.shape = shape, .options = {.min_capacity = least}, .partial = true};
        const Index reserved = max_slots_of<R>(pass);
        const Run<R> run(pass);
        CAPTURE(shape.batch, shape.length, least);
        CHECK(run.tape.plan.slot_count() == reserved);  // without padding all slots are filled
        CHECK(run.tape.expert.pre.count() == reserved);
        CHECK(run.tape.plan.gate.size() == reserved);
        if (shape.length < 16) continue;
        pass.lengths = lengths;
        CHECK(Run<R>(pass).tape.plan.slot_count() <= reserved);
      }
  };
  examine(ExpertChoiceRouter<8, 2>{});
  examine(ExpertChoiceRouter<8, 2, ExpertChoice{.group = Group::sequence}>{});
  examine(ExpertChoiceRouter<8, 2, ExpertChoice{.group = Group::position}>{});
  CHECK(max_slots_of<ExpertChoiceRouter<8, 2>>({.shape = {2, 20}}) == 80);
  CHECK(max_slots_of<Masked<ExpertChoiceRouter<8, 2>>>({.shape = {2, 20}}) == 80);
  CHECK(max_slots_of<AllowNonCausal<ExpertChoiceRouter<8, 2>>>({.shape = {2, 20}}) == 80);
  CHECK(max_slots_of<ThresholdExpertChoice<8, 2>>({.shape = {2, 20}}) == 8 * 40);
}
