#pragma once
// gradcheck of a layer that also reads a memory, such as cross-attention (LayerWithMemory in
// layers/layer.hpp): gradcheck<L, M>(), M features of the memory's tokens. Checks are those of a layer, with
// the derivatives of the memory, whose gradient accumulates.
#include <moegpt/testing/tensors.hpp>
#include <moegpt/testing/verify_plan.hpp>

#include <limits>
#include <type_traits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct GradcheckMemory {
  Index length = 3;                // tokens for each sequence of the pass
  const Index* lengths = nullptr;  // [batch] those that are not padding; null: all
};

namespace testing {

// One call of a layer: inputs, and what forward and backward make of them.
template <class L, int M>
struct CallWithMemory {
  Tokens<L::dim_in, double> x, dx;
  Tokens<L::dim_out, double> y, dy;
  Tokens<M, double> tokens, d_tokens;
  GradcheckMemory of;

  CallWithMemory(const Pass& pass, const GradcheckMemory& memory, Rng& rng, double spread)
      : x(pass.tokens()),
        dx(pass.tokens()),
        y(pass.tokens()),
        dy(pass.tokens()),
        tokens(pass.shape.batch * memory.length),
        d_tokens(pass.shape.batch * memory.length),
        of(memory) {
    for (auto* t : {&x.memory(), &dy.memory(), &tokens.memory()}) draw(*t, rng, spread);
  }
  Memory<M, double> memory() const { return {tokens, of.length, of.lengths}; }
  template <class Tape, class Scratch>
  void forward(const L& layer, Tape& tape, Scratch& scratch, const Pass& pass) {
    y.memory().fill(std::numeric_limits<double>::quiet_NaN());
    layer.forward(x, memory(), y, tape, scratch, pass);
  }
  // Starts the gradient of the memory from 0.
  template <class Tape, class Scratch>
  void backward(const L& layer, const Tape& tape, L& grad, Scratch& scratch, const Pass& pass) {
    d_tokens.memory().fill(0);
    add_backward(layer, tape, grad, scratch, pass);
  }
  template <class Tape, class Scratch>
  void add_backward(const L& layer, const Tape& tape, L& grad, Scratch& scratch, const Pass& pass) {
    dx.memory().fill(std::numeric_limits<double>::quiet_NaN());
    layer.backward(x, memory(), tape, dy, dx, Sum(d_tokens.view()), grad, scratch, pass);
  }
  bool same_gradients(const CallWithMemory& other) const {
    return same(dx, other.dx) && same(d_tokens, other.d_tokens);
  }
  template <int D>
  static bool same(const Tokens<D, double>& a, const Tokens<D, double>& b) {
    return std::memcmp(a[0], b[0], bytes_of<double>(a.count() * D)) == 0;
  }
};

inline bool all_finite(const Buffer<double>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](double v) { return std::isfinite(v); });
}

}  // namespace testing

// The layer's scalar must be double. Dropout, padding and so on are those of options.pass, as for a layer.
template <class L, int M>
  requires LayerWithMemory<L, M>
GradcheckReport gradcheck(const GradcheckOptions& options = {}, const GradcheckMemory& memory = {}) {
  static_assert(std::is_same_v<typename L::Scalar, double>,
                "gradcheck computes in double: give the layer T = double");
  using namespace testing;
  using Call = CallWithMemory<L, M>;
  check(memory.length >= 1, "gradcheck: the memory has ", memory.length,
        " tokens for each sequence: expected at least 1");
  return until_differentiable(options, [&](GradcheckReport& report, Rng& rng) {
    Pass pass = options.pass;
    if (!pass.routing) pass.routing = &options.routing;
    L layer, grad, again;
    draw_weights(layer, rng, options.spread);
    Call call(pass, memory, rng, options.spread), other(pass, memory, rng, options.spread);
    typename L::Tape tape, tape2;
    typename L::Scratch scratch, scratch2;

    for_each_other_pass(pass, [&](const Pass& stale) {  // stale values in tape and scratch ...
      Call before(stale, {memory.length + 1}, rng, options.spread);
      before.forward(layer, tape, scratch, stale);
      before.backward(layer, tape, grad, scratch, stale);
    });
    other.forward(layer, tape, scratch, pass);
    other.backward(layer, tape, grad, scratch, pass);
    set_zero(grad);
    call.forward(layer, tape, scratch, pass);  // ... must not matter
    call.backward(layer, tape, grad, scratch, pass);
    if (!all_finite(call.dx.memory()))
      report_failure(report, "dx is not overwritten, or not finite: NaNs are in it");
    if (!all_finite(call.d_tokens.memory())) report_failure(report, "memory: its gradient is not finite");
    if (const std::string path = first_not_finite(grad); !path.empty())
      report_failure(report, path + ": its gradient is not finite");

    Call fresh = call;
    pass.exec.threads = 2;
    fresh.forward(layer, tape2, scratch2, pass);
    fresh.backward(layer, tape2, again, scratch2, pass);
    if (!Call::same(call.y, fresh.y) || !call.same_gradients(fresh) || !same_bits(grad, again))
      report_failure(report, "two threads or fresh memory change the result");
    pass.exec.threads = 1;
    set_zero(again);
    // Another forward between this forward and its backward.
    other.forward(layer, tape2, scratch2, pass);
    fresh.backward(layer, tape, again, scratch2, pass);
    if (!call.same_gradients(fresh) || !same_bits(grad, again))
      report_failure(report,
                     "backward reads state outside its arguments: another forward changed its result");
    set_all(again, 1);
    fresh.d_tokens.memory().fill(1);
    for (int i = 0; i < 2; ++i) fresh.add_backward(layer, tape, again, scratch, pass);
    if (!adds(grad, again, 1)) report_failure(report, "gradients of weights do not add to existing values");
    if (!Call::same(call.dx, fresh.dx)) report_failure(report, "a second backward gives another dx");
    for (Index i = 0; i < call.d_tokens.memory().size(); ++i) {
      const double once = call.d_tokens.memory()[i];
      if (!(std::abs(fresh.d_tokens.memory()[i] - 1 - 2 * once) <= 1e-9 * (1 + std::abs(once))))
        report_failure(report, "the gradient of the memory does not add to existing values");
    }

    if (!report.ok) return Point::differentiable;  // resampling would not change this
    std::vector<TensorUnderTest> tensors{
        {"x", call.x[0], call.dx[0], call.x.memory().size()},
        {"memory", call.tokens[0], call.d_tokens[0], call.tokens.memory().size()}};
    add_tensors(tensors, layer, grad);
    const HeldPass held(pass);
    return compare(
        [&] {
          call.forward(layer, tape, scratch, held.pass);
          return value_of(call.y.memory(), call.dy.memory(), tape, pass);
        },
        tensors, options, report);
  });
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
