#pragma once
// A pool of experts, for MoE layers and user-defined layers:
//   y_s = dropout(expert_e(x_s))   for each slot s of expert e
// The slots of an expert are consecutive rows of buffers that all experts share. Work items are (expert,
// rows), the largest first, several if it has many slots; in backward_weights (expert, part).
#include <moegpt/core/heap_array.hpp>
#include <moegpt/kernels/dispatch.hpp>
#include <moegpt/kernels/dropout.hpp>
#include <moegpt/layers/expert.hpp>
#include <moegpt/routing/expert_slots.hpp>
#include <moegpt/routing/routing_context.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Dropout of expert outputs.
struct ExpertDropout {
  double probability = 0;
  Key noise{};
};
// No dropout without a key. `pool`: index of the pool in its layer, for different masks.
inline ExpertDropout expert_dropout(double probability, const Pass& pass, int pool = 0) {
  if (!pass.key) return {};
  return {probability, pass.key->with(Purpose::expert_dropout, pool)};
}

using ExpertTasks = std::span<const ExpertTask>;

namespace detail {

// The slots of all experts in chunks of at most `limit`, the largest first.
[[gnu::noinline]] inline ExpertTasks cut_slots(const ExpertSlots& layout, int experts, Index limit,
                                               Buffer<ExpertTask>& tasks) {
  Index count = 0;
  for (int e = 0; e < experts; ++e) {
    const Rows rows = layout.rows(e);
    const Pieces pieces{rows.count, limit};
    for (Index i = 0; i < pieces.size(); ++i)
      tasks[count++] = {e, {rows.first + pieces[i].first, pieces[i].count}};
  }
  std::sort(tasks.data(), tasks.data() + count, [](const ExpertTask& a, const ExpertTask& b) {
    return a.rows.count != b.rows.count ? a.rows.count > b.rows.count : a.rows.first < b.rows.first;
  });
  return {tasks.data(), static_cast<std::size_t>(count)};
}

[[gnu::noinline]] inline void check_slots(Index count, Index x, Index y, Index capacity) {
  check(count >= 0 && count <= x && count <= y && count <= capacity, "experts got ", count, " slots, but ", x,
        " rows of x, ", y, " rows of y and tape and scratch for ", capacity,
        ": none may be fewer; call tape.resize(slot_count) and scratch.resize(experts, slot_count) first");
}

template <class T>
void drop_slots(const ExpertDropout& dropout, const ExpertSlots& layout, MatrixView<T> y, Rows rows,
                const Pass& pass) {
  if (dropout.probability == 0) return;
  for (Index i = 0; i < rows.count; ++i)
    kernels::drop(y[i], y.cols, dropout.probability, dropout.noise, layout.number_of(rows.first + i, pass));
}

}  // namespace detail

// View of `count` experts. x and dy of the slots may be gathered: {x, plan.token.data(), slot_count} are the
// tokens of all slots.
template <ExpertNetwork X>
struct ExpertsView {
  using T = typename X::Scalar;
  static constexpr int D = X::dim, DOut = output_dim<X>();

  const X* data = nullptr;
  int count = 0;
  int first = 0;  // number of data[0] in its layer, above 0 for a part of the experts; -1: not routed to

  struct Tape : X::Tape {  // [slots]
    ExpertDropout dropout{};
  };
  struct Scratch {
    typename X::Scratch expert;  // [slots]
    Tokens<DOut, T> d_output;    // [slots] gradient of the expert outputs, times gates
    Buffer<ExpertTask> tasks;
    [[gnu::noinline]] void resize(int experts, Index slot_count) {
      expert.resize(slot_count);
      d_output.resize(slot_count);
      tasks.resize(experts + slot_count / expert_rows(slot_count) + 1);
    }
  };

  // y_s = dropout(expert(x_s));  x [slots, D], y [slots, DOut]
  [[gnu::noinline]] void forward(Gathered<D, T> x, const ExpertSlots& layout, Out<DOut, T> y, Tape& tape,
                                 Scratch& scratch, const Pass& pass,
                                 const ExpertDropout& dropout = {}) const {
    detail::check_slots(layout.offset[count], x.count, y.count, scratch.d_output.count());
    tape.dropout = dropout;
    for_each_task(layout, scratch, pass, [&](const X& expert, const ExpertTask& task, const auto&... exec) {
      const Rows rows = task;
      expert.forward(x.rows(rows), y.rows(rows), tape, scratch.expert, task, exec...);
      detail::drop_slots<T>(dropout, layout, y.rows(rows), rows, pass);
    });
  }

  // dy [slots, DOut] is the gradient of gate_s y_s; dx [slots, D], gate and d_gate [slots]:
  //   d_gate_s = <dy_s, y_s>,  dx_s = gate_s (dy/dx)^T dy_s
  // Stores in scratch what backward_weights reads. Null gate: 1. Null d_gate, empty dx: not required.
  [[gnu::noinline]] void backward(Gathered<D, T> x, const ExpertSlots& layout, const Tape& tape,
                                  Gathered<DOut, T> dy, const T* gate, Out<D, T> dx, T* d_gate,
                                  Scratch& scratch, const Pass& pass) const {
    detail::check_slots(layout.offset[count], x.count, dy.count, scratch.d_output.count());
    for_each_task(layout, scratch, pass, [&](const X& expert, const ExpertTask& task) {
      const Rows rows = task;
      const auto at = [&](auto* values) { return values ? values + rows.first : nullptr; };
      const auto d_output = scratch.d_output.rows(rows);
      kernels::gather<T>(dy.rows(rows).x, dy.rows(rows).index, d_output);
      detail::drop_slots<T>(tape.dropout, layout, d_output, rows, pass);
      expert.backward(x.rows(rows), tape, d_output, at(gate), dx.rows(rows), at(d_gate), scratch.expert,
                      task);
      if (gate) kernels::scale_rows<T>(at(gate), d_output);
    });
  }

  // After backward: grad[e] += gradient of expert e, for experts with slots. Marks them as touched.
  [[gnu::noinline]] void backward_weights(Gathered<D, T> x, const ExpertSlots& layout, const Tape& tape,
                                          X* grad, Scratch& scratch, const Pass& pass) const {
    for (int e = 0; e < count; ++e)
      if (layout.rows(e).count > 0 && (first < 0 || is_allowed(first + e, pass))) touch(grad[e]);
    const ExpertTasks tasks = detail::cut_slots(layout, count, layout.offset[count], scratch.tasks);
    constexpr Index parts = X::weight_parts;
    pass.exec.parallel_for(std::ssize(tasks) * parts, [&](Index i) {
      const auto [e, rows] = tasks[static_cast<std::size_t>(i / parts)];
      data[e].backward_weights(i % parts, x.rows(rows), tape, scratch.d_output.view().rows(rows), grad[e],
                               scratch.expert, ExpertTask{numbered(e), rows});
    });
  }

 private:
  int numbered(int e) const { return first < 0 ? first : first + e; }
  // f(expert, task)
  template <class F>
  void for_each_task(const ExpertSlots& layout, Scratch& scratch, const Pass& pass, F&& f) const {
    const ExpertTasks tasks =
        detail::cut_slots(layout, count, expert_rows(scratch.d_output.count()), scratch.tasks);
    const auto run = [&](const ExpertTask& task, const auto&... exec) {
      f(data[task.expert], ExpertTask{numbered(task.expert), task.rows}, exec...);
    };
    if constexpr (ShareableExpert<X>)
      if constexpr (requires { f(data[0], ExpertTask{}, pass.exec); })
        if (std::ssize(tasks) < pass.exec.workers()) {  // all threads compute each task together
          for (const ExpertTask& task : tasks) run(task, pass.exec);
          return;
        }
    pass.exec.parallel_for(std::ssize(tasks), [&](Index i) { run(tasks[static_cast<std::size_t>(i)]); });
  }
};

// E experts as a member of a layer: Field{"experts", &MyLayer::experts, Kind::sparse}.
template <ExpertNetwork X, int E>
struct Experts : HeapArray<X, E> {
  using View = ExpertsView<X>;
  using Tape = typename View::Tape;
  using Scratch = typename View::Scratch;
  View view() const { return {this->data(), E}; }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
