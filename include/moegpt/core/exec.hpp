#pragma once
// Exec: who runs where. The only place with an OpenMP pragma. The number of threads is an argument, never a
// global, and must never reach a result: callers cut work in tasks by shape, and a task owns its output.
#include <moegpt/core/matrix.hpp>

#ifdef _OPENMP
#include <omp.h>
#endif

#include <type_traits>

namespace moegpt::inline MOEGPT_BUILD {

// Something to call with (task, worker). Not a template parameter, so that the parallel region is compiled once.
class TaskRef {
 public:
  template <class F>
  explicit TaskRef(F& f)
      : object_(&f), call_([](void* object, Index task, int worker) { (*static_cast<F*>(object))(task, worker); }) {}
  void operator()(Index task, int worker) const { call_(object_, task, worker); }

 private:
  void* object_;
  void (*call_)(void*, Index, int);
};

struct Exec {
  int threads = 1;   // at most; a build without OpenMP always uses one

  // f(task) for every task in [0, tasks), each exactly once, in no promised order.
  template <class F>
  void parallel_for(Index tasks, F&& f) const {
    auto call = [&](Index task, int) { f(task); };
    run(tasks, TaskRef(call));
  }

  // f(task, worker), worker in [0, workers()): for tasks that need scratch of their own.
  template <class F>
  void parallel_for_worker(Index tasks, F&& f) const {
    auto call = [&](Index task, int worker) { f(task, worker); };
    run(tasks, TaskRef(call));
  }

  int workers() const { return threads > 1 ? threads : 1; }

 private:
  void run(Index tasks, TaskRef task_of) const {
#ifdef _OPENMP
    if (threads > 1 && tasks > 1) {
      const int team = static_cast<int>(tasks < threads ? tasks : threads);
#pragma omp parallel num_threads(team)
      {
        const int worker = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
        for (Index task = 0; task < tasks; ++task) task_of(task, worker);
      }
      return;
    }
#endif
    for (Index task = 0; task < tasks; ++task) task_of(task, 0);
  }
};

// Cuts [0, count) into pieces of nearly equal size, none larger than `limit`. The cut depends on the two
// numbers only.
struct Pieces {
  Index count, limit;
  Index size() const { return count == 0 ? 0 : (count + limit - 1) / limit; }
  Rows operator[](Index piece) const {
    const Index n = size(), base = count / n, larger = count % n;
    return {piece * base + (piece < larger ? piece : larger), base + (piece < larger ? 1 : 0)};
  }
};

// The same for pieces.
class RowsRef {
 public:
  template <class F>
  explicit RowsRef(F& f) : object_(&f), call_([](void* object, Rows rows) { (*static_cast<F*>(object))(rows); }) {}
  void operator()(Rows rows) const { call_(object_, rows); }

 private:
  void* object_;
  void (*call_)(void*, Rows);
};
inline void for_each_piece(const Exec& exec, Index count, Index limit, RowsRef f) {
  const Pieces pieces{count, limit};
  exec.parallel_for(pieces.size(), [&](Index i) { f(pieces[i]); });
}

// f(rows) for the pieces of [0, count): the usual loop over tokens.
template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, RowsRef>)
void for_each_piece(const Exec& exec, Index count, Index limit, F&& f) {
  for_each_piece(exec, count, limit, RowsRef(f));
}

}  // namespace moegpt::inline MOEGPT_BUILD
