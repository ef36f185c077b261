// A drop rule that compares tokens with later ones is not causal; the diagnostics name the rule.
// expect: under this drop rule a later token can take an earlier one's place
// expect: Drop::slot_major
// expect: AllowNonCausal
#include <moegpt/model/gpt.hpp>
#include <moegpt/routing/dropping.hpp>

constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
using Recipe = moegpt::Dropping<moegpt::TopKRouter<4, 2>, moegpt::Drop::slot_major>;
moegpt::GPT<config, moegpt::Dropping<moegpt::TopKRouter<4, 2>, moegpt::Drop::token_order>> in_order;
moegpt::GPT<config,
            moegpt::Dropping<moegpt::TopKRouter<4, 2>, moegpt::Drop::slot_major, moegpt::Group::position>>
    now;
#ifdef FAULT
moegpt::GPT<config, Recipe> model;
#else
moegpt::GPT<config, moegpt::AllowNonCausal<Recipe>> model;
#endif
