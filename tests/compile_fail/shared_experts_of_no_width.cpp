// How an expert of one's own becomes twice as wide, only its author knows.
// expect: SharedExperts: several shared experts are one of so many times the width
#include <moegpt/model/gpt.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/moe/with_experts.hpp>

template <int D, int Dff, class T>
struct Mine : moegpt::Expert<D, Dff, moegpt::Activation::relu, T> {};

#ifndef FAULT
template <int D, int Dff, class T, int Times>
  requires(Times > 1)
struct moegpt::Wider<Mine<D, Dff, T>, Times> {
  using type = Mine<D, Times * Dff, T>;
};
#endif
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
moegpt::GPT<config, moegpt::WithExperts<moegpt::SharedExperts<moegpt::TopKRouter<4, 2>, 2>, Mine>> model;
