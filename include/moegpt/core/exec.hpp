#pragma once
// Exec: parallel loops and regions of threads, the only use of OpenMP. The number of threads is an argument,
// not a global. It must not affect results: callers partition work by shape, and each task owns its output.
#include <moegpt/core/denormals.hpp>
#include <moegpt/core/matrix.hpp>

#ifdef _OPENMP
#include <omp.h>
#endif

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <type_traits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// A non-owning reference to a callable, or null. It is not a template parameter, so its caller is compiled
// once.
template <class... Arguments>
class FunctionRef {
 public:
  FunctionRef() = default;
  template <class F>
  explicit FunctionRef(const F& f)
      : object_(&f),
        call_([](const void* object, Arguments... a) { (*static_cast<const F*>(object))(a...); }) {}
  void operator()(Arguments... a) const { call_(object_, a...); }
  explicit operator bool() const { return call_ != nullptr; }

 private:
  const void* object_ = nullptr;
  void (*call_)(const void*, Arguments...) = nullptr;
};
using TaskRef = FunctionRef<Index, int>;  // (task, worker)
using RowsRef = FunctionRef<Rows>;

// The threads of a region. Thread 0 runs the program and posts jobs; the workers run tasks. Threads claim
// tasks one by one. A job closes when no task is left; run() does not wait for late workers. Waiting threads
// spin for some microseconds, then block, and so leave the cores to other programs.
class Team {
 public:
  // Thread 0: runs all tasks together with the workers and rethrows the first exception.
  [[gnu::noinline]] void run(Index tasks, TaskRef task_of) {
    tasks_ = tasks;
    task_of_ = &task_of;
    next_ = 0;
    inside_ -= closed;
    ++posted_;
    wake(workers_);
    work(0);
    inside_ += closed;
    await(caller_, [&] { return inside_ == closed; });
    task_of_ = nullptr;
    if (error_) {
      failed_ = false;
      std::rethrow_exception(std::exchange(error_, nullptr));
    }
  }
  // Whether a job is running.
  bool running() const { return task_of_ != nullptr; }

  // Workers: run tasks of jobs until dismiss().
  [[gnu::noinline]] void help(int worker) {
    while (!dismissed_) {
      const unsigned seen = posted_;
      if (++inside_ < closed) work(worker);
      if (--inside_ == closed) wake(caller_);
      await(workers_, [&] { return posted_ != seen || dismissed_; });
    }
    ++gone_;
    wake(caller_);
  }
  // Thread 0, at the end: blocks until all workers have left. OpenMP's implicit barrier would spin instead.
  [[gnu::noinline]] void dismiss(unsigned workers) {
    dismissed_ = true;
    wake(workers_);
    await(caller_, [&] { return gone_ == workers; });
  }

 private:
  static constexpr unsigned closed = 1u << 31;

  void work(int worker) {
    try {
      for (Index task; (task = next_++) < tasks_;) (*task_of_)(task, worker);
    } catch (...) {
      next_ = tasks_;  // starts no further task
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
  }
  // Not std::atomic::wait: GCC's yields before it blocks, which costs a time slice under load.
  template <class Done>
  void await(std::condition_variable& changed, Done done) {
    using Clock = std::chrono::steady_clock;
    const auto until = Clock::now() + std::chrono::microseconds(30);  // waking a blocked thread takes as long
    for (int spin = 1; spin % 16 != 0 || Clock::now() < until; ++spin, relax())
      if (done()) return;
    std::unique_lock lock(mutex_);
    changed.wait(lock, done);
  }
  void wake(std::condition_variable& changed) {
    mutex_.lock();  // a waiter whose test failed blocks now
    mutex_.unlock();
    changed.notify_all();
  }
  static void relax() {
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
  }

  // The job. run() sets it while it is closed and no thread is inside. The first task that throws sets error_
  // and failed_.
  Index tasks_ = 0;
  const TaskRef* task_of_ = nullptr;
  std::exception_ptr error_;
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::condition_variable caller_, workers_;
  // Aligned to cache lines of their own.
  alignas(64) std::atomic<unsigned> posted_{0};  // jobs so far
  std::atomic<bool> dismissed_{false};
  alignas(64) std::atomic<unsigned> inside_{closed};  // threads in the job, + closed
  alignas(64) std::atomic<Index> next_{0};            // task to claim
  alignas(64) std::atomic<unsigned> gone_{0};
};

struct Exec {
  static constexpr int most_threads = 1024;
  int threads = 1;       // at most; below 1 counts as 1, and a build without OpenMP always uses one
  Team* team = nullptr;  // the threads of the region; null outside

  // Calls f(exec) with an Exec whose threads wait for loops until f returns. Inside a region it only calls f.
  // Few large regions are best: opening one wakes all threads, closing it waits for all. Denormals are
  // flushed to zero. Throws what f throws, std::invalid_argument for more than most_threads.
  template <class F>
  void region(F&& f) const {
    open(FunctionRef<const Exec&>(f));
  }

  // f(task) for every task in [0, tasks), each exactly once, in unspecified order. Within a task the loop
  // runs on its thread alone. Denormals are flushed to zero. If a task throws, tasks that have not started
  // are skipped and the exception is rethrown. Throws std::invalid_argument if `tasks` is negative.
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

  void check_threads() const {
    check(threads <= most_threads, "Exec has ", threads, " threads: at most ", most_threads, " are possible");
  }

 private:
  [[gnu::noinline]] void run(Index tasks, TaskRef task_of) const {
    check(tasks >= 0, "parallel_for got ", tasks, " tasks: 0 or more are expected");
    int worker = 0;
#ifdef _OPENMP
    if (threads > 1 && tasks > 1 && !team) return region([&](const Exec& exec) { exec.run(tasks, task_of); });
    if (team && team->running())
      worker = omp_get_thread_num();
    else if (team && tasks > 1)
      return team->run(tasks, task_of);
#endif
    const FlushDenormals flush;
    for (Index task = 0; task < tasks; ++task) task_of(task, worker);
  }

  [[gnu::noinline]] void open(FunctionRef<const Exec&> f) const {
    check_threads();
    const FlushDenormals flush;
#ifdef _OPENMP
    if (threads > 1 && !team) {
      Team workers;
      std::exception_ptr error;
#pragma omp parallel num_threads(threads)
      if (const int worker = omp_get_thread_num(); worker > 0) {
        const FlushDenormals flush_here;
        workers.help(worker);
      } else {
        try {
          f({threads, &workers});
        } catch (...) {
          error = std::current_exception();
        }
        workers.dismiss(static_cast<unsigned>(omp_get_num_threads() - 1));
      }
      if (error) std::rethrow_exception(error);
      return;
    }
#endif
    f(*this);
  }
};

// Partitions [0, count) into chunks of nearly equal size, at most `limit` elements each. The partition
// depends on these two numbers only. count >= 0, limit >= 1; indices of chunks are [0, size()).
struct Pieces {
  Index count, limit;
  Index size() const { return count == 0 ? 0 : (count + limit - 1) / limit; }
  Rows operator[](Index piece) const {
    const Index n = size(), base = count / n, larger = count % n;
    return {piece * base + (piece < larger ? piece : larger), base + (piece < larger ? 1 : 0)};
  }
};

inline void for_each_piece(const Exec& exec, Index count, Index limit, RowsRef f) {
  check(count >= 0 && limit >= 1, "for_each_piece got ", count, " elements in pieces of at most ", limit,
        ": 0 or more in pieces of at least 1 are expected");
  const Pieces pieces{count, limit};
  exec.parallel_for(pieces.size(), [&](Index i) { f(pieces[i]); });
}

// f(rows) for the chunks of [0, count), in parallel: the usual loop over tokens.
template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, RowsRef>)
void for_each_piece(const Exec& exec, Index count, Index limit, F&& f) {
  for_each_piece(exec, count, limit, RowsRef(f));
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
