#pragma once
// Ranks as threads of one process, for tests without MPI.
#include <moegpt/dist/communicator.hpp>

#include <condition_variable>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

// What the ranks of a communicator share. If one throws, the others' calls throw, too.
class ThreadHub {
 public:
  explicit ThreadHub(int size) : size_(size), send_(at(size)), count_(at(size)) {}
  int size() const { return size_; }
  void offer(int rank, const void* send, const moegpt::Index* count) {
    send_[at(rank)] = static_cast<const char*>(send), count_[at(rank)] = count;
    wait();
  }
  const char* sent(int rank) const { return send_[at(rank)]; }
  const moegpt::Index* count(int rank) const { return count_[at(rank)]; }
  void wait() {
    std::unique_lock lock(mutex_);
    const unsigned turn = turn_;
    if (++waiting_ == size_) {
      waiting_ = 0, ++turn_;
      changed_.notify_all();
    } else {
      changed_.wait(lock, [&] { return turn_ != turn || failed_; });
    }
    if (failed_) throw std::runtime_error("another rank has failed");
  }
  void fail() {
    std::scoped_lock lock(mutex_);
    failed_ = true;
    changed_.notify_all();
    for (auto& part : parts_) part.second->fail();
  }
  std::shared_ptr<ThreadHub> part(int number, int color, int size) {
    std::scoped_lock lock(mutex_);
    auto& hub = parts_[{number, color}];
    if (!hub) hub = std::make_shared<ThreadHub>(size);
    return hub;
  }

 private:
  static std::size_t at(int i) { return static_cast<std::size_t>(i); }
  int size_, waiting_ = 0;
  unsigned turn_ = 0;
  bool failed_ = false;
  std::vector<const char*> send_;
  std::vector<const moegpt::Index*> count_;
  std::map<std::pair<int, int>, std::shared_ptr<ThreadHub>> parts_;
  std::mutex mutex_;
  std::condition_variable changed_;
};

class ThreadCommunicator {
 public:
  using Index = moegpt::Index;
  ThreadCommunicator(std::shared_ptr<ThreadHub> hub, int rank) : hub_(std::move(hub)), rank_(rank) {}
  int rank() const { return rank_; }
  int size() const { return hub_->size(); }

  void exchange(const void* send, const Index* send_count, void* receive, const Index* receive_count,
                Index row_bytes) {
    hub_->offer(rank_, send, send_count);
    char* to = static_cast<char*>(receive);
    bool fits = true;
    for (int r = 0; r < size(); ++r) {
      Index before = 0;
      for (int i = 0; i < rank_; ++i) before += hub_->count(r)[i];
      const Index rows = hub_->count(r)[rank_];
      fits = fits && rows == receive_count[r];
      if (rows > 0)
        std::memcpy(to, hub_->sent(r) + before * row_bytes, static_cast<std::size_t>(rows * row_bytes));
      to += rows * row_bytes;
    }
    hub_->wait();
    moegpt::check(fits, "exchange: a rank expects another number of rows than it gets");
  }
  void gather(const void* mine, void* all, Index size_of_one) {
    hub_->offer(rank_, mine, nullptr);
    for (int r = 0; r < size(); ++r)
      std::memcpy(static_cast<char*>(all) + r * size_of_one, hub_->sent(r),
                  static_cast<std::size_t>(size_of_one));
    hub_->wait();
  }
  ThreadCommunicator split(int color) {
    std::vector<int> colors(static_cast<std::size_t>(size()));
    gather(&color, colors.data(), sizeof color);
    int part_rank = 0, part_size = 0;
    for (int r = 0; r < size(); ++r) {
      if (colors[static_cast<std::size_t>(r)] != color) continue;
      part_rank += r < rank_;
      ++part_size;
    }
    return {hub_->part(splits_++, color, part_size), part_rank};
  }

 private:
  std::shared_ptr<ThreadHub> hub_;
  int rank_, splits_ = 0;
};
static_assert(moegpt::Communicator<ThreadCommunicator>);

// f(communicator) on every rank. Throws what the first rank that failed has thrown.
template <class F>
void on_ranks(int size, F&& f) {
  const auto hub = std::make_shared<ThreadHub>(size);
  std::exception_ptr error;
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      try {
        ThreadCommunicator communicator(hub, r);
        f(communicator);
      } catch (...) {
        {
          std::scoped_lock lock(mutex);
          if (!error) error = std::current_exception();
        }
        hub->fail();
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}
