// gradcheck of a layer with a memory: what it rejects.
#include <moegpt/testing/gradcheck.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {

enum class Fault {
  none,
  memory_forgotten,
  padding_counts,
  memory_assigned,
  weight_forgotten,
  dx_added_to,
  reads_scratch,
  not_a_number,
  length_remembered
};

Fault planted = Fault::none;  // at run time: one layer to compile instead of one for each fault

// y = w x s feature by feature, s the sum of the sequence's memory, with a planted fault.
struct Planted {
  using Scalar = double;
  static constexpr int dim_in = 3, dim_out = 3;
  Weight<double, 3> weight;

  static constexpr auto fields() { return Fields{Field{"weight", &Planted::weight}}; }
  struct Tape {
    Tokens<3, double> sum;  // [sequences]
    Index longest = 0;
  };
  struct Scratch {
    Tokens<3, double> sum;
  };

  static Index length_of(const Memory<3, double>& memory, Index b) {
    return memory.lengths ? memory.lengths[b] : memory.length;
  }
  void forward(In<3, double> x, Memory<3, double> memory, Out<3, double> y, Tape& tape, Scratch& scratch,
               const Pass& pass) const {
    tape.sum.resize(pass.shape.batch);
    tape.longest = std::max(tape.longest, memory.length);
    for (Index b = 0; b < pass.shape.batch; ++b)
      for (Index i = 0; i < 3; ++i) {
        tape.sum[b][i] = planted == Fault::length_remembered ? static_cast<double>(tape.longest) : 0;
        for (Index t = 0; t < length_of(memory, b); ++t)
          tape.sum[b][i] += memory.tokens[b * memory.length + t][i];
      }
    scratch.sum = tape.sum;
    for (Index n = 0; n < x.count; ++n)
      for (Index i = 0; i < 3; ++i) y[n][i] = weight[i] * x[n][i] * tape.sum[n / pass.shape.length][i];
  }
  void backward(In<3, double> x, Memory<3, double> memory, const Tape& tape, In<3, double> dy,
                Out<3, double> dx, Sum<3, double> d_memory, Planted& grad, Scratch& scratch,
                const Pass& pass) const {
    const Tokens<3, double>& sum = planted == Fault::reads_scratch ? scratch.sum : tape.sum;
    for (Index b = 0; b < pass.shape.batch; ++b)
      for (Index i = 0; i < 3; ++i) {
        double d_sum = 0;
        for (Index n = b * pass.shape.length; n < (b + 1) * pass.shape.length; ++n) {
          const double d = weight[i] * dy[n][i] * sum[b][i];
          dx[n][i] = planted == Fault::dx_added_to ? dx[n][i] + d : d;
          if (planted != Fault::weight_forgotten) grad.weight[i] += dy[n][i] * x[n][i] * sum[b][i];
          d_sum += dy[n][i] * weight[i] * x[n][i];
        }
        if (planted == Fault::not_a_number) d_sum = NAN;
        const Index count = planted == Fault::padding_counts ? memory.length : length_of(memory, b);
        for (Index t = 0; t < count && planted != Fault::memory_forgotten; ++t) {
          double& d = d_memory[b * memory.length + t][i];
          d = planted == Fault::memory_assigned ? d_sum : d + d_sum;
        }
      }
  }
};
static_assert(LayerWithMemory<Planted, 3>);

std::string message(Fault fault) {
  planted = fault;
  const Index lengths[] = {3, 1};
  return gradcheck<Planted, 3>({}, {.length = 3, .lengths = lengths}).message;
}
void names(const std::string& text, const std::string& part) {
  CAPTURE(text);
  CHECK(text.find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("gradcheck of a layer with a memory accepts one whose gradients are right") {
  CHECK(message(Fault::none).empty());
}

TEST_CASE("gradcheck of a layer with a memory names the tensor whose gradient is wrong") {
  names(message(Fault::memory_forgotten), "memory: backward says 0, differences say ");
  names(message(Fault::padding_counts), "memory: backward says ");
  names(message(Fault::weight_forgotten), "weight: backward says 0, differences say ");
  names(message(Fault::not_a_number), "memory: its gradient is not finite");
}

TEST_CASE(
    "gradcheck of a layer with a memory checks what is overwritten, what is added to, and what is read") {
  names(message(Fault::memory_assigned), "the gradient of the memory does not add to existing values");
  names(message(Fault::dx_added_to), "dx is not overwritten");
  names(message(Fault::reads_scratch), "outside its arguments");
  names(message(Fault::length_remembered), "fresh memory");
}

TEST_CASE("gradcheck rejects a memory without tokens") {
  CHECK_THROWS_WITH((gradcheck<Planted, 3>({}, {.length = 0})), ContainsSubstring("expected at least 1"));
}
