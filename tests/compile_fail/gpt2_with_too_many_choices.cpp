// A preset checks its configuration where it is named.
// expect: gpt2_moe: experts must be at least 1, active from 1 to experts
#include <moegpt/model/presets.hpp>

#ifdef FAULT
constexpr int active = 9;
#else
constexpr int active = 8;
#endif
using Preset = moegpt::presets::gpt2_moe<moegpt::presets::Extents{
    .vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2, .active = active}>;
moegpt::presets::ModelOf<Preset> model;
