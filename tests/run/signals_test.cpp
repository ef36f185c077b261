#include <moegpt/run/signals.hpp>

#include "../support/catch.hpp"

#include <sys/wait.h>
#include <unistd.h>

using namespace moegpt;

namespace {

// How a child ends that runs f: its exit status, or minus the signal.
template <class F>
int ending_of(F&& f) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
    ::_exit(f());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

TEST_CASE("the first signal is kept, the second one ends the process") {
  for (const int first : {SIGINT, SIGTERM}) {
    CHECK(ending_of([&] {
            const StopSignals signals;
            if (signals.received() != 0) return 1;
            std::raise(first);
            return signals.received() == first ? 7 : 2;
          }) == 7);
    for (const int second : {SIGINT, SIGTERM})
      CHECK(ending_of([&] {
              const StopSignals signals;
              std::raise(first);
              std::raise(second);
              return 1;
            }) == -second);
  }
}

TEST_CASE("a signal that is ignored stays so, and handlers before are restored") {
  CHECK(ending_of([] {
          std::signal(SIGINT, SIG_IGN);
          const StopSignals signals;
          std::raise(SIGINT);
          std::raise(SIGINT);
          return signals.received();
        }) == 0);
  CHECK(ending_of([] {
          std::signal(SIGTERM, SIG_IGN);
          const StopSignals signals;
          std::raise(SIGINT);
          std::raise(SIGTERM);
          return signals.received() == SIGINT ? 7 : 1;
        }) == 7);
  CHECK(ending_of([] {
          {
            const StopSignals signals;
          }
          std::raise(SIGTERM);
          return 1;
        }) == -SIGTERM);
  CHECK(ending_of([] {
          {
            const StopSignals signals;
            std::raise(SIGTERM);
          }
          const StopSignals again;  // no signal yet
          return again.received();
        }) == 0);
}
