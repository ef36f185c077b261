// The diagnostics name what a router specification lacks, also within a model.
// expect: Recipe lacks something that a Router has
// expect: router.backward
#include <moegpt/model/gpt.hpp>

struct OneWay {
  static constexpr int experts = 4, active = 2;
  static constexpr bool causal = true;
  template <int D, class T = float>
  struct For : moegpt::TopKRouter<4, 2>::For<D, T> {
#ifdef FAULT
    void backward() const {}
#endif
  };
};
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
moegpt::GPT<config, OneWay> model;
