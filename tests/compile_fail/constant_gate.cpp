// One expert per token and renormalised gates: the gate is 1 whatever the router says, so it must be meant.
// expect: K = 1 with renormalised gates
#include <moegpt/moe/moe_layer.hpp>

using Recipe = moegpt::TopKRouter<4, 1, moegpt::TopK{.gates = moegpt::Gates::renormalised}>;
#ifdef FAULT
moegpt::MoELayer<Recipe, moegpt::Expert<6, 9>> layer;
#else
moegpt::MoELayer<moegpt::AllowConstantGate<Recipe>, moegpt::Expert<6, 9>> layer;
#endif
