#pragma once
// Training runs of small models on any communicator, and what they leave: the same for every number of ranks.
// Compiled once (runs.cpp), for tests with threads as ranks and for programs of every MPI.
#include <moegpt/dist/communicator.hpp>
#include <moegpt/train/accumulate.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace runs {

using moegpt::Index;

// Any communicator behind run-time calls.
class AnyCommunicator {
 public:
  template <class C>
    requires(!std::same_as<C, AnyCommunicator> && moegpt::Communicator<C>)  // in this order
  explicit AnyCommunicator(C communicator, std::shared_ptr<Index> sent = std::make_shared<Index>(0))
      : sent_(std::move(sent)) {
    const auto held = std::make_shared<C>(std::move(communicator));
    rank_ = held->rank(), size_ = held->size();
    exchange_ = [held](const void* send, const Index* send_count, void* receive, const Index* receive_count,
                       Index row_bytes) {
      held->exchange(send, send_count, receive, receive_count, row_bytes);
    };
    gather_ = [held](const void* mine, void* all, Index of_one) { held->gather(mine, all, of_one); };
    split_ = [held, total = sent_](int color) { return AnyCommunicator(held->split(color), total); };
  }
  int rank() const { return rank_; }
  int size() const { return size_; }
  Index bytes() const { return *sent_; }  // sent to other ranks, also by the communicators split from it

  void exchange(const void* send, const Index* send_count, void* receive, const Index* receive_count,
                Index row_bytes) {
    exchange_(send, send_count, receive, receive_count, row_bytes);
    for (int r = 0; r < size_; ++r) *sent_ += r == rank_ ? 0 : send_count[r] * row_bytes;
  }
  void gather(const void* mine, void* all, Index size_of_one) {
    gather_(mine, all, size_of_one);
    *sent_ += size_of_one * (size_ - 1);
  }
  AnyCommunicator split(int color) { return split_(color); }

 private:
  int rank_ = 0, size_ = 0;
  std::shared_ptr<Index> sent_;
  std::function<void(const void*, const Index*, void*, const Index*, Index)> exchange_;
  std::function<void(const void*, void*, Index)> gather_;
  std::function<AnyCommunicator(int)> split_;
};
static_assert(moegpt::Communicator<AnyCommunicator>);

struct Setting {
  std::string router = "top k";  // "noisy", "shared": see runs.cpp
  int steps = 20, expert_ranks = 1;
  bool distributed = true;  // false: one process, without a Distribution
  bool sharded = false;     // moments
  int first = 0;            // above 0: continues the checkpoint of this step in `folder`
  std::string folder{};     // of checkpoints; empty: none
  std::string into{};       // folder of the checkpoint at the end; empty: `folder`
};

struct Result {
  std::vector<double> losses, norms, weights, moments;  // weights and moments of rank 0: all of them
  std::uint64_t hash = 0;                               // of these
};

// Collective. Steps first .. steps - 1. Every rank has its part of each batch of 4 sequences.
Result train(AnyCommunicator& world, const Setting& setting);

}  // namespace runs
