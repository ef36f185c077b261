// One expert per token and renormalised gates: the gate is the constant 1, so it needs AllowConstantGate.
// expect: K = 1 with renormalised gates
#include <moegpt/moe/moe_layer.hpp>

using Recipe = moegpt::TopKRouter<4, 1, moegpt::TopK{.gates = moegpt::Gates::renormalised}>;
#ifdef FAULT
moegpt::MoELayer<Recipe, moegpt::Expert<6, 9>> layer;
#else
moegpt::MoELayer<moegpt::AllowConstantGate<Recipe>, moegpt::Expert<6, 9>> layer;
#endif
