#include <moegpt/moe/experts.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

template <class T>
using Small = Expert<6, 5, Activation::gelu, T>;

// Tokens are assigned cyclically to experts 0, 1 and 3 of a pool of four, with a learned gate per expert:
// y_n = gate_e expert_e(x_n).
template <class T>
struct InTurn {
  using Scalar = T;
  static constexpr int E = 4, dim_in = 6, dim_out = 6;
  using Pool = Experts<Small<T>, E>;

  Pool experts;
  Weight<T, E> gate;

  static constexpr auto fields() {
    return Fields{Field{"experts", &InTurn::experts, Kind::sparse}, Field{"gate", &InTurn::gate}};
  }
  struct Tape {
    typename Pool::Tape experts;
    Buffer<Index> offset, token;
    Buffer<T> gate;       // [slots]
    Tokens<6, T> output;  // [slots]
    void resize(const Pass& pass) {
      experts.resize(pass.tokens());
      offset.resize(E + 1);
      token.resize(pass.tokens());
      gate.resize(pass.tokens());
      output.resize(pass.tokens());
    }
    ExpertSlots layout() const { return {offset.data(), token.data()}; }
    Gathered<6, T> at_slots(In<6, T> rows) const { return {rows, token.data(), token.size()}; }
  };
  struct Scratch {
    typename Pool::Scratch experts;
    Tokens<6, T> d_input;
    Buffer<T> d_gate;
    void resize(const Pass& pass) {
      experts.resize(E, pass.tokens());
      d_input.resize(pass.tokens());
      d_gate.resize(pass.tokens());
    }
  };

  void forward(In<6, T> x, Out<6, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    tape.resize(pass);
    scratch.resize(pass);
    Index s = 0;
    for (int e = 0; e < E; ++e) {
      tape.offset[e] = s;
      for (Index n = 0; n < pass.tokens(); ++n)
        if (e != 2 && n % 3 == (e == 3 ? 2 : e)) tape.token[s] = n, tape.gate[s++] = gate[e];
    }
    tape.offset[E] = s;
    experts.view().forward(tape.at_slots(x), tape.layout(), tape.output, tape.experts, scratch.experts, pass,
                           expert_dropout(pass.dropout, pass));
    for (Index i = 0; i < s; ++i)
      for (int k = 0; k < 6; ++k) y[tape.token[i]][k] = tape.gate[i] * tape.output[i][k];
  }
  void backward(In<6, T> x, const Tape& tape, In<6, T> dy, Out<6, T> dx, InTurn& grad, Scratch& scratch,
                const Pass& pass) const {
    scratch.resize(pass);
    const Out<6, T> d_input = dx.empty() ? Out<6, T>{} : scratch.d_input.view();
    experts.view().backward(tape.at_slots(x), tape.layout(), tape.experts, tape.at_slots(dy),
                            tape.gate.data(), d_input, scratch.d_gate.data(), scratch.experts, pass);
    experts.view().backward_weights(tape.at_slots(x), tape.layout(), tape.experts, grad.experts.data(),
                                    scratch.experts, pass);
    for (int e = 0; e < E; ++e)
      for (Index s = tape.offset[e]; s < tape.offset[e + 1]; ++s) grad.gate[e] += scratch.d_gate[s];
    for (Index s = 0; s < pass.tokens() && !dx.empty(); ++s) std::copy_n(d_input[s], 6, dx[tape.token[s]]);
  }
};
static_assert(Layer<InTurn<double>>);
static_assert(lists_every_field<InTurn<double>>());

template <class T>
InTurn<T> drawn(std::uint64_t seed) {
  InTurn<T> layer;
  draw_weights(layer, seed);
  return layer;
}
template <class T>
struct Run {
  Tokens<6, T> y, dx;
  typename InTurn<T>::Tape tape;
  typename InTurn<T>::Scratch scratch;
  InTurn<T> grad;
  Run(const InTurn<T>& layer, In<6, T> x, In<6, T> dy, const Pass& pass)
      : y(pass.tokens()), dx(pass.tokens()) {
    layer.forward(x, y, tape, scratch, pass);
    layer.backward(x, tape, dy, dx, grad, scratch, pass);
  }
};

// The outputs of a pool of two experts, slot by slot.
Tokens<6, double> answers(const Experts<Small<double>, 2>& experts, Gathered<6, double> x,
                          const ExpertSlots& layout, const Pass& pass, const ExpertDropout& dropout) {
  const Index count = layout.offset[2];
  Tokens<6, double> y(count);
  Experts<Small<double>, 2>::Tape tape;
  Experts<Small<double>, 2>::Scratch scratch;
  tape.resize(count);
  scratch.resize(2, count);
  experts.view().forward(x, layout, y, tape, scratch, pass, dropout);
  return y;
}

// y = its number, in forward and in dx and d_gate of backward.
struct Numbered {
  using Scalar = double;
  static constexpr int dim = 2;
  static constexpr auto fields() { return Fields{Field{"weight", &Numbered::weight}}; }
  struct Tape {
    void resize(Index) {}
  };
  using Scratch = Tape;
  static constexpr Index weight_parts = 1;

  Weight<double, 1> weight;

  void forward(Gathered<2, double>, Out<2, double> y, Tape&, Scratch&, ExpertTask task) const {
    std::fill_n(y[0], 2 * task.rows.count, task.expert);
  }
  void backward(Gathered<2, double>, const Tape&, In<2, double>, const double*, Out<2, double> dx,
                double* d_gate, Scratch&, ExpertTask task) const {
    std::fill_n(dx[0], 2 * task.rows.count, task.expert);
    std::fill_n(d_gate, task.rows.count, task.expert);
  }
  void backward_weights(Index, Gathered<2, double>, const Tape&, In<2, double>, Numbered& grad,
                        const Scratch&, ExpertTask task) const {
    grad.weight[0] += task.expert;
  }
};
static_assert(ExpertNetwork<Numbered>);

}  // namespace

TEST_CASE("the gradients of a pool of experts and of its gates agree with differences, with dropout too") {
  GradcheckOptions options;
  gradcheck_three_seeds<InTurn<double>>(options);
  options.pass.dropout = 0.4;
  options.pass.key = Key{3};
  gradcheck_three_seeds<InTurn<double>>(options);
}

TEST_CASE("a pool has the same bits for 1, 2, 3 and 8 threads, with several tasks for each expert") {
  const auto layer = drawn<float>(1);
  const auto x = random_tokens<6, float>(900, 2), dy = random_tokens<6, float>(900, 3);
  Pass pass{.shape = {1, 900}, .dropout = 0.2, .key = Key{4}};
  const Run<float> one(layer, x, dy, pass);
  for (const int threads : {2, 3, 8}) {
    pass.exec.threads = threads;
    const Run<float> many(layer, x, dy, pass);
    CHECK(same_bits(one.y, many.y));
    CHECK(same_bits(one.dx, many.dx));
    CHECK(same_weights(one.grad, many.grad));
  }
}

TEST_CASE("a pool marks the gradients of experts that have slots, unless they are not allowed") {
  const auto layer = drawn<double>(5);
  const auto x = random_tokens<6, double>(7, 6), dy = random_tokens<6, double>(7, 7);
  const bool allowed[4] = {true, false, true, true};
  const RoutingContext routing{.allowed = allowed};
  for (const RoutingContext* context : {static_cast<const RoutingContext*>(nullptr), &routing}) {
    const Run<double> run(layer, x, dy, {.shape = {1, 7}, .routing = context});
    for (std::size_t e = 0; e < 4; ++e)
      CHECK(run.grad.experts[e].up.weight.touched == (e != 2 && (!context || allowed[e])));
  }
}

TEST_CASE("the dropout mask of a slot depends on its token and choice, not on the slot or on other slots") {
  Experts<Small<double>, 2> experts;
  for_each_weight(
      [](auto& w) {
        for (auto& v : w) v = 0;
      },
      experts);
  for (auto& expert : experts) expert.down.bias.memory().fill(1);  // every output is 1 before dropout
  const auto x = random_tokens<6, double>(40, 8);
  const Pass pass{.shape = {1, 40}, .first_token = 100};
  const ExpertDropout dropout{0.5, Key{9}};
  const Index token[6] = {7, 30, 7, 2, 39, 30}, moved[3] = {30, 39, 7};
  const int choice[6] = {0, 1, 1, 0, 2, 2}, moved_choice[3] = {2, 2, 0};
  const Index offset[3] = {0, 2, 6}, moved_offset[3] = {0, 3, 3};
  const auto y = answers(experts, {x, token, 6}, {offset, token, choice, 3}, pass, dropout);
  const auto z = answers(experts, {x, moved, 3}, {moved_offset, moved, moved_choice, 3}, pass, dropout);
  CHECK(same_bits(z[0], y[5], 6));
  CHECK(same_bits(z[1], y[4], 6));
  CHECK(same_bits(z[2], y[0], 6));
  CHECK_FALSE(same_bits(y[0], y[2], 6));  // another choice of the same token
  CHECK_FALSE(same_bits(y[1], y[5], 6));
  for (Index s = 0; s < 6; ++s) {
    double expected[6] = {1, 1, 1, 1, 1, 1};
    kernels::drop(expected, 6, 0.5, Key{9}, (100 + token[s]) * 3 + choice[s]);
    CHECK(same_bits(y[s], expected, 6));
  }
  // without tables slot s has token s and choice 0
  const auto plain = answers(experts, x, {offset}, pass, dropout);
  double expected[6] = {1, 1, 1, 1, 1, 1};
  kernels::drop(expected, 6, 0.5, Key{9}, 104);
  CHECK(same_bits(plain[4], expected, 6));
  const auto undropped = answers(experts, x, {offset}, pass, {});
  for (Index s = 0; s < 6; ++s) CHECK(undropped[s][0] == 1);
}

TEST_CASE("tasks cover every slot once, the largest first, none beyond the limit") {
  const Index offset[6] = {0, 3, 3, 28, 40, 41};
  Buffer<ExpertTask> tasks(5 + 41 / 10 + 1);
  const ExpertTasks cut = detail::cut_slots({offset}, 5, 10, tasks);
  std::vector<int> expert(41, -1);
  Index before = 10;
  for (const ExpertTask& task : cut) {
    CHECK((task.rows.count <= before && task.rows.count > 0));
    before = task.rows.count;
    for (Index s = task.rows.first; s < task.rows.first + task.rows.count; ++s) {
      CHECK(expert[static_cast<std::size_t>(s)] == -1);
      expert[static_cast<std::size_t>(s)] = task.expert;
    }
  }
  for (int e = 0; e < 5; ++e)
    for (Index s = offset[e]; s < offset[e + 1]; ++s) CHECK(expert[static_cast<std::size_t>(s)] == e);
}

TEST_CASE("a pool rejects more slots than it has rows and memory for, and names the call that is missing") {
  const Experts<Small<double>, 2> experts;
  const auto x = random_tokens<6, double>(4, 10);
  const Index offset[3] = {0, 3, 5};
  Tokens<6, double> y(5);
  Experts<Small<double>, 2>::Tape tape;
  Experts<Small<double>, 2>::Scratch scratch;
  tape.resize(5);
  scratch.resize(2, 5);
  const auto refused = [&] {
    return refusal([&] { experts.view().forward(x, {offset}, y, tape, scratch, {.shape = {1, 5}}); });
  };
  CHECK(refused().find("experts got 5 slots, but 4 rows of x, 5 rows of y and tape and scratch for 5") !=
        std::string::npos);
}

TEST_CASE("the path of an expert of a pool is its index, without another level") {
  InTurn<float> layer;
  std::vector<std::string> paths;
  for_each_named_weight(
      [&](const std::string& path, Kind kind, auto&) {
        paths.push_back(path);
        CHECK((kind == Kind::sparse) == (path != "gate"));
      },
      layer);
  CHECK(paths.size() == 17);
  CHECK(paths[0] == "experts.0.up.weight");
  CHECK(paths[15] == "experts.3.down.bias");
}

TEST_CASE("an expert is told its number in the layer, in all three calls") {
  constexpr int E = 3;
  const Index offset[] = {0, 400, 400, 1000}, token[1000] = {};  // an expert may have several tasks
  const Tokens<2, double> x(1), dy(1);
  const auto numbers = [&](int first, int threads) {
    Experts<Numbered, E> pool, grad;
    Tokens<2, double> y(1000), dx(1000);
    Buffer<double> d_gate(1000);
    ExpertsView<Numbered> view = pool.view();
    CHECK(view.first == 0);
    view.first = first;
    ExpertsView<Numbered>::Tape tape;
    ExpertsView<Numbered>::Scratch scratch;
    scratch.resize(E, 1000);
    const Pass pass{.shape = {1, 1}, .exec = {.threads = threads}};
    const Gathered<2, double> slots{x, token, 1000}, d_slots{dy, token, 1000};
    view.forward(slots, {offset}, y, tape, scratch, pass);
    view.backward(slots, {offset}, tape, d_slots, nullptr, dx, d_gate.data(), scratch, pass);
    view.backward_weights(slots, {offset}, tape, grad.data(), scratch, pass);
    std::vector<double> seen{grad[0].weight[0], grad[1].weight[0], grad[2].weight[0]};
    for (const Index s : {0, 399, 400, 999}) seen.insert(seen.end(), {y[s][1], dx[s][0], d_gate[s]});
    return seen;
  };
  const auto expected = [](double a, double b) {
    return std::vector<double>{a, 0, b, a, a, a, a, a, a, b, b, b, b, b, b};
  };
  for (const int threads : {1, 2}) {
    CHECK(numbers(0, threads) == expected(0, 2));
    CHECK(numbers(5, threads) == expected(5, 7));     // a part of the experts of a layer
    CHECK(numbers(-1, threads) == expected(-1, -1));  // a dense or shared network
  }
}
