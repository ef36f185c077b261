// One expert per token and a normalised gate: it is constant, so it needs AllowConstantGate.
// expect: K = 1 with renormalised gates
// expect: SigmoidRouter: .normalise = false
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/routing/sigmoid_router.hpp>

using Recipe = moegpt::SigmoidRouter<4, 1, moegpt::Sigmoid{.groups = 2, .groups_kept = 1}>;
#ifdef FAULT
moegpt::MoELayer<Recipe, moegpt::Expert<6, 9>> layer;
#else
moegpt::MoELayer<moegpt::AllowConstantGate<Recipe>, moegpt::Expert<6, 9>> layer;
#endif
