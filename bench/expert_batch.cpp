// One expert: forward, backward and weight gradient, by number of tokens.
// Calls rotate over 8 experts. One thread.
#include "support/layer_run.hpp"
#include "support/table.hpp"

using namespace bench;

namespace {

template <int D, int Dff>
struct Experts {
  using E = Expert<D, Dff>;
  struct One {
    E expert, grad;
    typename E::Tape tape;
    typename E::Scratch scratch;
    Tokens<D, float> x, y, dy, dx;
  };
  std::vector<One> all{8};
  std::size_t at = 0;

  explicit Experts(Index tokens) {
    Rng rng(1);
    for (One& e : all) {
      for_each_weight(
          [&](auto& w) {
            for (auto& v : w) v = static_cast<float>(0.07 * (rng.uniform() - 0.5));
          },
          e.expert);
      for (auto* t : {&e.x, &e.y, &e.dy, &e.dx}) {
        t->resize(tokens);
        for (auto& v : t->memory()) v = static_cast<float>(rng.uniform() - 0.5);
      }
      e.tape.resize(tokens);
      e.scratch.resize(tokens);
      forward(e);
      backward(e);
    }
  }
  One& next() { return all[at = (at + 1) % all.size()]; }
  static Rows rows(const One& e) { return {0, e.x.count()}; }
  static void forward(One& e) { e.expert.forward(e.x, e.y, e.tape, e.scratch, rows(e)); }
  static void backward(One& e) {
    e.expert.backward(e.x, e.tape, e.dy, nullptr, e.dx, nullptr, e.scratch, rows(e));
  }
  static void backward_weights(One& e) {
    for (Index part = 0; part < E::weight_parts; ++part)
      e.expert.backward_weights(part, e.x, e.tape, e.dy, e.grad, e.scratch, rows(e));
  }
};

template <int D, int Dff>
void rows_of(const char* shape) {
  using X = Experts<D, Dff>;
  using Part = void (*)(typename X::One&);
  for (const Index tokens : {1, 4, 16, 32, 64, 128, 256})
    for (const auto& [part, call] : {std::pair<const char*, Part>{"forward", X::forward},
                                     {"backward", X::backward},
                                     {"backward_weights", X::backward_weights}})
      add(name(shape, part, tokens), 30, [=, call = call](benchmark::State& state) {
        X experts(tokens);
        const auto n = static_cast<double>(tokens);
        measure(state, {.flops = 2 * 2.0 * D * Dff * n, .tokens = n}, [&] { call(experts.next()); });
      });
}

}  // namespace

int main(int argc, char** argv) {
  rows_of<128, 512>("128x512");
  rows_of<512, 256>("512x256");
  rows_of<768, 3072>("768x3072");
  return bench::run(argc, argv);
}
