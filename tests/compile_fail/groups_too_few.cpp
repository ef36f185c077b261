// The groups that are kept must hold as many experts as a token chooses.
// expect: SigmoidRouter: the groups kept hold fewer than K experts
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/routing/sigmoid_router.hpp>

#ifdef FAULT
using Recipe = moegpt::SigmoidRouter<8, 3, moegpt::Sigmoid{.groups = 4, .groups_kept = 1}>;
#else
using Recipe = moegpt::SigmoidRouter<8, 3, moegpt::Sigmoid{.groups = 4, .groups_kept = 2}>;
#endif
moegpt::MoELayer<Recipe, moegpt::Expert<6, 9>> layer;
