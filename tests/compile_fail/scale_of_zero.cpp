// With all gates zero the MoE layer would have no output.
// expect: SigmoidRouter: the scale must be more than 0
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/routing/sigmoid_router.hpp>

#ifdef FAULT
using Scale = std::ratio<0>;
#else
using Scale = std::ratio<5, 2>;
#endif
moegpt::MoELayer<moegpt::SigmoidRouter<8, 2, moegpt::Sigmoid{}, Scale>, moegpt::Expert<6, 9>> layer;
