#pragma once
// Adapters (LoRA, Hu et al. 2021): a linear layer plus the product of two narrow matrices, which can be
// trained alone:
//   y = W x + b + s B (A x),   A [Rank, DIn], B [DOut, Rank],   s = adapter_alpha / Rank
// As in PEFT, A is drawn from U(+-1 / sqrt(DIn)) (Kaiming uniform with a = sqrt(5)) and B is zero, so the
// layer first computes the function of its linear layer. Without adapters, Rank is 0 and the layer is Linear.
#include <moegpt/layers/linear.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// What backward needs, and its temporary memory: the same for all adapters of one rank.
template <int Rank, class T>
struct AdapterTape {
  Tokens<Rank, T> low;  // s A x
  void resize(const Pass& pass) { resize(pass.tokens()); }
  void resize(Index count) { low.resize(count); }
};
template <int Rank, class T>
struct AdapterScratch {
  Tokens<Rank, T> d_low;  // s B^T dy
  void resize(const Pass& pass) { resize(pass.tokens()); }
  void resize(Index count) { d_low.resize(count); }
};

// The two matrices. If one is empty in the model (merge_adapters), there is no adapter.
template <int DIn, int DOut, int Rank, class T>
struct Adapter {
  static_assert(Rank >= 0, "Adapter: its rank must be at least 0, which stands for no adapter");

  [[no_unique_address]] Weight<T, Rank, DIn> a;
  [[no_unique_address]] Weight<T, DOut, Rank> b;

  static constexpr auto fields() {
    return Fields{Field{"a", &Adapter::a, Start::uniform}, Field{"b", &Adapter::b, Start::zero}};
  }
  using Tape = std::conditional_t<Rank == 0, Nothing, AdapterTape<Rank, T>>;
  using Scratch = std::conditional_t<Rank == 0, Nothing, AdapterScratch<Rank, T>>;

  bool empty() const { return a.empty() || b.empty(); }

  // y += s B (A x)
  [[gnu::noinline]] void add(In<DIn, T> x, Sum<DOut, T> y, Tape& tape, const Pass& pass) const
    requires(Rank > 0)
  {
    if (empty()) return;
    tape.resize(x.count);
    kernels::affine<T>(pass.exec, x, a, nullptr, tape.low);
    scale(tape.low, pass);
    kernels::gemm<T>(pass.exec, MatrixView<const T>(tape.low), kernels::transposed<T>(b), y.matrix(),
                     {.accumulate = true});
  }

  // For some of the outputs, dy [tokens, outputs.count]; `resume`: not the first of them:
  // d_low = B^T dy,  dB += sum_t dy_t low_t^T
  [[gnu::noinline]] void backward_outputs(Rows outputs, MatrixView<const T> dy, bool resume, const Tape& tape,
                                          Adapter& grad, Scratch& scratch, const Pass& pass) const
    requires(Rank > 0)
  {
    if (empty()) return;
    scratch.resize(dy.rows);
    kernels::affine_backward<T>(pass.exec, dy, MatrixView<const T>(b).rows_at(outputs), scratch.d_low,
                                resume);
    const MatrixView<T> db = grad.b;
    kernels::affine_backward_weights<T>(pass.exec, MatrixView<const T>(tape.low), dy,
                                        db.empty() ? db : db.rows_at(outputs), nullptr);
  }
  // After all outputs, with d_low multiplied by s:  dx += A^T d_low,  dA += sum_t d_low_t x_t^T
  [[gnu::noinline]] void backward_inputs(In<DIn, T> x, Sum<DIn, T> dx, Adapter& grad, Scratch& scratch,
                                         const Pass& pass) const
    requires(Rank > 0)
  {
    if (empty()) return;
    scale(scratch.d_low, pass);
    if (!dx.empty()) kernels::affine_backward<T>(pass.exec, scratch.d_low, a, dx.matrix(), true);
    kernels::affine_backward_weights<T>(pass.exec, x, scratch.d_low, grad.a, nullptr);
  }

 private:
  static void scale(Tokens<Rank, T>& low, const Pass& pass) {
    const T factor = static_cast<T>(adapter_scale(pass.options, Rank));
    for (T& number : low.memory()) number *= factor;
  }
};
static_assert(lists_every_field<Adapter<2, 3, 1, float>>());

template <int DIn, int DOut, int Rank, class N = float, bool HasBias = true>
struct AdaptedLinear {
  static_assert(Rank > 0, "AdaptedLinear: without adapters, the layer is Linear");
  using T = ScalarOf<N>;
  using Scalar = T;
  static constexpr int dim_in = DIn, dim_out = DOut;

  Linear<DIn, DOut, N, HasBias> linear;
  Adapter<DIn, DOut, Rank, T> adapter;

  static constexpr auto fields() {
    return Fields{Field{"", &AdaptedLinear::linear}, Field{"adapter", &AdaptedLinear::adapter}};
  }
  using Tape = AdapterTape<Rank, T>;
  using Scratch = AdapterScratch<Rank, T>;

  void forward(In<DIn, T> x, Out<DOut, T> y, Tape& tape, const Pass& pass) const {
    linear.forward(x, y, pass);
    adapter.add(x, Sum(y), tape, pass);
  }
  void backward(In<DIn, T> x, const Tape& tape, In<DOut, T> dy, Out<DIn, T> dx, AdaptedLinear& grad,
                Scratch& scratch, const Pass& pass) const {
    linear.backward(x, dy, dx, grad.linear, pass);
    backward_adapter(x, tape, dy, Sum(dx), grad, scratch, pass);
  }
  void backward(In<DIn, T> x, const Tape& tape, In<DOut, T> dy, Sum<DIn, T> dx, AdaptedLinear& grad,
                Scratch& scratch, const Pass& pass) const {
    linear.backward(x, dy, dx, grad.linear, pass);
    backward_adapter(x, tape, dy, dx, grad, scratch, pass);
  }

 private:
  void backward_adapter(In<DIn, T> x, const Tape& tape, In<DOut, T> dy, Sum<DIn, T> dx, AdaptedLinear& grad,
                        Scratch& scratch, const Pass& pass) const {
    adapter.backward_outputs({0, DOut}, dy, false, tape, grad.adapter, scratch, pass);
    adapter.backward_inputs(x, dx, grad.adapter, scratch, pass);
  }
};
static_assert(lists_every_field<AdaptedLinear<2, 3, 1>>());
static_assert(Layer<AdaptedLinear<2, 3, 1>> && AddsToDx<AdaptedLinear<2, 3, 1>>);

// A linear layer with an adapter of this rank; 0: without.
template <int DIn, int DOut, int Rank, class N = float, bool HasBias = true>
using Projection =
    std::conditional_t<Rank == 0, Linear<DIn, DOut, N, HasBias>, AdaptedLinear<DIn, DOut, Rank, N, HasBias>>;

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
