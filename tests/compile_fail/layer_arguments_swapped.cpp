// The arguments of MoELayer are a router, then an expert.
// expect: MoELayer
// expect: Router
// expect: ExpertNetwork
#include <moegpt/moe/moe_layer.hpp>

using Router = moegpt::TopKRouter<4, 2>;
using Expert = moegpt::Expert<6, 9>;
#ifdef FAULT
moegpt::MoELayer<Expert, Router> layer;
#else
moegpt::MoELayer<Router, Expert> layer;
#endif
