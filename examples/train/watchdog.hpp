#pragma once
// Watchdog: a thread that ends the process if it makes no progress, so that a job whose ranks wait for each
// other for ever ends, and can be resumed.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace training {

class Watchdog {
 public:
  Watchdog() = default;
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

  // Ends the process with status 1 after `seconds` without progress; 0: never. Time counts in ticks of this
  // thread, so a job that is suspended as a whole is not ended when it goes on.
  void start(double seconds, int rank) {
    if (seconds > 0) thread_ = std::thread([=, this] { watch(seconds, rank); });
  }
  // phase: a literal
  void progress(const char* phase) {
    phase_ = phase;
    ++count_;
  }

 private:
  void watch(double seconds, int rank) {
    const auto ticks = std::max(4L, std::lround(seconds));
    const std::chrono::duration<double> tick(seconds / static_cast<double>(ticks));
    long idle = 0;
    long before = -1;
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, tick, [&] { return ends_; })) {
      const long now = count_;
      idle = now == before ? idle + 1 : 0;
      before = now;
      if (idle < ticks) continue;
      std::fprintf(stderr, "train: rank %d: no progress for %g s in %s (--watchdog): the job ends\n", rank,
                   seconds, phase_.load());
      std::this_thread::sleep_for(
          std::chrono::milliseconds(300));  // a launcher drops output of a job that ends
      std::_Exit(1);
    }
  }

  std::atomic<const char*> phase_ = "its start";
  std::atomic<long> count_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace training
