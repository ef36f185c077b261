// A layer is not an expert: it has no weight_parts and other arguments.
// expect: WithExperts: X<D, Dff, T> lacks something that an ExpertNetwork has (layers/expert.hpp)
#include <moegpt/model/gpt.hpp>
#include <moegpt/moe/with_experts.hpp>

template <int D, int Dff, class T>
#ifdef FAULT
using Mine = moegpt::Linear<D, D, T>;
#else
using Mine = moegpt::Expert<D, Dff, moegpt::Activation::relu, T>;
#endif
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
moegpt::GPT<config, moegpt::WithExperts<moegpt::TopKRouter<4, 2>, Mine>> model;
