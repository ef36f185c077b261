// groups_kept without groups: with one group all are kept.
// expect: SigmoidRouter: groups_kept is given, but there is one group: give groups, too
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/routing/sigmoid_router.hpp>

#ifdef FAULT
using Recipe = moegpt::SigmoidRouter<8, 2, moegpt::Sigmoid{.groups_kept = 2}>;
#else
using Recipe = moegpt::SigmoidRouter<8, 2, moegpt::Sigmoid{.groups = 4, .groups_kept = 2}>;
#endif
moegpt::MoELayer<Recipe, moegpt::Expert<6, 9>> layer;
