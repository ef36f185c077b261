#pragma once
// Requests to stop: SIGINT (Ctrl-C) and SIGTERM. A loop asks after each step whether there is one.
#include <moegpt/core/build.hpp>

#include <array>
#include <csignal>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// While it lives, the first signal is kept, and a second one ends the process at once, as without it. A
// signal that was ignored, as in a background job, stays so. Only one at a time; handlers before it are
// restored.
class StopSignals {
 public:
  StopSignals() {
    received_ = 0;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      ::sigaction(numbers[i], nullptr, &before_[i]);
      struct sigaction keep{};
      keep.sa_handler = keep_first;
      keep.sa_flags = SA_RESTART;
      if (before_[i].sa_handler != SIG_IGN) ::sigaction(numbers[i], &keep, nullptr);
    }
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals() {
    for (std::size_t i = 0; i < numbers.size(); ++i) ::sigaction(numbers[i], &before_[i], nullptr);
  }

  // Number of the first signal; 0: none.
  int received() const { return received_; }

 private:
  static constexpr std::array numbers{SIGINT, SIGTERM};
  static void keep_first(int number) {
    received_ = number;
    for (const int each : numbers) {
      struct sigaction now{};
      ::sigaction(each, nullptr, &now);
      if (now.sa_handler == keep_first) std::signal(each, SIG_DFL);  // an ignored one stays ignored
    }
  }
  // Of the process, as handlers are.
  static inline volatile std::sig_atomic_t received_ = 0;
  std::array<struct sigaction, 2> before_{};
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
