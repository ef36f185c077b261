#pragma once
// Loops over all numbers of a tree of weights, on all threads: weights are laid end to end and cut in pieces
// of equal size, wherever one weight ends and the next begins.
#include <moegpt/core/exec.hpp>
#include <moegpt/core/fields.hpp>

#include <algorithm>

namespace moegpt::inline MOEGPT_BUILD {

// Numbers that no cut parts: a cache line of floats. Each weight begins a line.
inline constexpr Index run_line = 16;
inline Index lines_of(Index numbers) { return (numbers + run_line - 1) / run_line; }

// A weight among others laid end to end.
template <class T>
struct WeightRun {
  T* data;
  Index size, end;   // in numbers; where it ends, in lines
};

// f(run, rows) for every run, or anything else with a size and an end, that has numbers in these lines.
template <class R, class F>
void for_each_run(std::span<const R> runs, Rows lines, F&& f) {
  auto run = std::upper_bound(runs.begin(), runs.end(), lines.first,
                              [](Index at, const R& r) { return at < r.end; });
  const Index last = lines.first + lines.count;
  for (Index at = lines.first; at < last; at = run++->end) {
    const Index begin = run->end - lines_of(run->size), first = (at - begin) * run_line;
    f(*run, Rows{first, std::min(run->size, (last - begin) * run_line) - first});
  }
}

// f(runs) for the weights of a tree with wanted(kind, weight) that are not empty, as many at a time as a list
// on the stack holds.
template <class T, class Tree, class Wanted, class F>
void for_each_batch_of_runs(Tree& tree, Wanted&& wanted, F&& f) {
  std::array<WeightRun<T>, 1024> runs;
  std::size_t count = 0;
  auto hand_over = [&] { f(std::span<const WeightRun<T>>(runs.data(), std::exchange(count, 0))); };
  for_each_weight_of_kind([&](Kind kind, auto& w) {
    if (!wanted(kind, w) || w.empty()) return;
    if (count == runs.size()) hand_over();
    runs[count] = {w.data(), w.size(), lines_of(w.size()) + (count > 0 ? runs[count - 1].end : 0)};
    ++count;
  }, tree);
  if (count > 0) hand_over();
}

// What set_zero(tree) does, on all threads.
template <class Tree>
void set_zero(Tree& tree, const Exec& exec) {
  using T = walk::Scalar<Tree>;
  for_each_batch_of_runs<T>(tree, [](Kind, auto& w) {
    w.touched = false;
    return true;
  }, [&](std::span<const WeightRun<T>> runs) {
    for_each_piece(exec, runs.back().end, 4096, [&](Rows lines) {
      for_each_run(runs, lines, [](const WeightRun<T>& run, Rows r) {
        std::memset(static_cast<void*>(run.data + r.first), 0, sizeof(T) * static_cast<std::size_t>(r.count));
      });
    });
  });
}

// into += from: the sum of the gradients of micro-batches or of threads. A weight is touched that either tree marks
// as touched, so Adam moves every expert that one of them reached. Weights that are empty in either tree (not wanted,
// or not held here) and buffers stay as they are.
template <class Tree>
void add(Tree& into, const Tree& from, const Exec& exec = {}) {
  using T = walk::Scalar<Tree>;
  struct Sum {
    Index size, end;
    T* into;
    const T* from;
  };
  std::array<Sum, 1024> sums;
  std::size_t count = 0;
  auto add_up = [&] {
    const std::span<const Sum> all(sums.data(), std::exchange(count, 0));
    for_each_piece(exec, all.back().end, 4096, [&](Rows lines) {
      for_each_run(all, lines, [](const Sum& sum, Rows r) {
        for (Index i = r.first; i < r.first + r.count; ++i) sum.into[i] += sum.from[i];
      });
    });
  };
  for_each_weight_of_kind([&](Kind kind, auto& w, const auto& g) {
    if (kind == Kind::buffer || w.empty() || g.empty()) return;
    w.touched = w.touched || g.touched;
    if (count == sums.size()) add_up();
    sums[count] = {w.size(), lines_of(w.size()) + (count > 0 ? sums[count - 1].end : 0), w.data(), g.data()};
    ++count;
  }, into, from);
  if (count > 0) add_up();
}

}  // namespace moegpt::inline MOEGPT_BUILD
