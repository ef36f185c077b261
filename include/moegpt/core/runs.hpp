#pragma once
// Parallel loops over all elements of a parameter tree: weights are concatenated, and the concatenation is
// partitioned into chunks of equal size, which may span several weights.
#include <moegpt/core/exec.hpp>
#include <moegpt/core/fields.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Chunks consist of lines of 16 elements (a cache line of floats). Each weight begins a line.
inline constexpr Index run_line = 16;
inline Index lines_of(Index elements) { return (elements + run_line - 1) / run_line; }

// A weight of the concatenation.
template <class T>
struct WeightRun {
  T* data;
  Index size, end;  // in elements; its end in the concatenation, in lines
};

// f(run, rows) for every run that overlaps `lines`: rows are its elements there. R has a size and an end.
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

// Collects runs on the stack and calls f(runs) for at most 1024 at once.
template <class T, class F>
class RunBatches {
 public:
  explicit RunBatches(F& f) : f_(f) {}
  void add(T* data, Index size) {
    if (size == 0) return;
    if (count_ == runs_.size()) flush();
    runs_[count_] = {data, size, lines_of(size) + (count_ > 0 ? runs_[count_ - 1].end : 0)};
    ++count_;
  }
  // After the last run.
  void flush() {
    if (count_ > 0) f_(std::span<const WeightRun<T>>(runs_.data(), std::exchange(count_, 0)));
  }

 private:
  F& f_;
  std::array<WeightRun<T>, 1024> runs_;
  std::size_t count_ = 0;
};

// f(runs) for the weights with selected(kind, weight), in such batches.
template <class T, class Tree, class Selected, class F>
void for_each_batch_of_runs(Tree& tree, Selected&& selected, F&& f) {
  RunBatches<T, std::remove_reference_t<F>> batches(f);
  for_each_weight_of_kind(
      [&](Kind kind, auto& w) {
        if (selected(kind, w)) batches.add(w.data(), w.size());
      },
      tree);
  batches.flush();
}

// set_zero(tree), in parallel.
template <class Tree>
void set_zero(Tree& tree, const Exec& exec) {
  using T = walk::Scalar<Tree>;
  for_each_batch_of_runs<T>(
      tree,
      [](Kind, auto& w) {
        w.touched = false;
        return true;
      },
      [&](std::span<const WeightRun<T>> runs) {
        for_each_piece(exec, runs.back().end, 4096, [&](Rows lines) {
          for_each_run(runs, lines, [](const WeightRun<T>& run, Rows r) {
            std::memset(static_cast<void*>(run.data + r.first), 0,
                        sizeof(T) * static_cast<std::size_t>(r.count));
          });
        });
      });
}

// into += from, for gradients of micro-batches or threads. A weight is marked as touched if it is in either
// tree, so Adam updates every expert that one of them used. Buffers and weights that are empty in either tree
// are unchanged.
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
  for_each_weight_of_kind(
      [&](Kind kind, auto& w, const auto& g) {
        if (kind == Kind::buffer || w.empty() || g.empty()) return;
        w.touched = w.touched || g.touched;
        if (count == sums.size()) add_up();
        sums[count] = {w.size(), lines_of(w.size()) + (count > 0 ? sums[count - 1].end : 0), w.data(),
                       g.data()};
        ++count;
      },
      into, from);
  if (count > 0) add_up();
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
