#pragma once
// Communicator: the ranks 0 .. size() - 1 of a job, and what they exchange. Three operations suffice; all
// sums are computed here, in the order of ranks, so that they do not depend on the communication library.
#include <moegpt/core/buffer.hpp>

#include <concepts>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Collective: every rank makes the same calls in the same order. Pointers of different arguments do not
// alias.
//   exchange(send, send_count, receive, receive_count, row_bytes)
//     Sends send_count[r] rows of row_bytes bytes to each rank r and receives receive_count[r] rows of it.
//     Rows lie in the order of ranks.
//   gather(mine, all, bytes)   all[r] = mine of rank r, `bytes` each
//   split(color)               a communicator of the ranks with this color, in the same order
// All throw std::runtime_error if the exchange fails.
template <class C>
concept Communicator = std::movable<C> && requires(C c, const C read, const void* send, const Index* count,
                                                   void* receive, Index bytes, int color) {
  { read.rank() } -> std::same_as<int>;
  { read.size() } -> std::same_as<int>;
  c.exchange(send, count, receive, count, bytes);
  c.gather(send, receive, bytes);
  { c.split(color) } -> std::same_as<C>;
};

// A single process.
struct SerialCommunicator {
  int rank() const { return 0; }
  int size() const { return 1; }
  void exchange(const void* send, const Index* send_count, void* receive, const Index* receive_count,
                Index row_bytes) const {
    check(send_count[0] == receive_count[0], "exchange: this rank sends ", send_count[0],
          " rows to itself, but receives ", receive_count[0]);
    gather(send, receive, send_count[0] * row_bytes);
  }
  void gather(const void* mine, void* all, Index bytes) const {
    if (bytes > 0) std::memcpy(all, mine, static_cast<std::size_t>(bytes));
  }
  SerialCommunicator split(int) const { return {}; }
};
static_assert(Communicator<SerialCommunicator>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
