#include <moegpt/core/exec.hpp>

#include "support/catch.hpp"

#include <vector>

using namespace moegpt;

TEST_CASE("every task runs exactly once and its worker is below workers(), for any number of threads") {
  for (const int threads : {1, 2, 3, 8, 0, -1})
    for (const Index tasks : {0, 1, 2, 7, 100}) {
      const Exec exec{threads};
      std::vector<int> runs(static_cast<std::size_t>(tasks));
      std::vector<int> worker_of(static_cast<std::size_t>(tasks), -1);
      exec.parallel_for_worker(tasks, [&](Index task, int worker) {
        ++runs[static_cast<std::size_t>(task)];
        worker_of[static_cast<std::size_t>(task)] = worker;
      });
      CAPTURE(threads, tasks);
      CHECK(runs == std::vector<int>(runs.size(), 1));
      CHECK(exec.workers() >= 1);
      for (const int worker : worker_of) {
        CHECK(worker >= 0);
        CHECK(worker < exec.workers());
      }
    }
}

TEST_CASE("two tasks that run at once have different workers") {
  const Exec exec{3};
  std::vector<int> busy(3);
  int clashes[3] = {};
  exec.parallel_for_worker(2000, [&](Index, int worker) {   // a worker touches its own counters only
    const auto w = static_cast<std::size_t>(worker);
    if (++busy[w] != 1) ++clashes[w];
    --busy[w];
  });
  CHECK(clashes[0] + clashes[1] + clashes[2] == 0);
}

TEST_CASE("pieces cover a range once, in order, none above the limit, and differ by at most one") {
  for (const Index count : {0, 1, 5, 63, 64, 65, 128, 1000, 1009})
    for (const Index limit : {1, 3, 64, 2000}) {
      const Pieces pieces{count, limit};
      Index next = 0, smallest = count, largest = 0;
      for (Index i = 0; i < pieces.size(); ++i) {
        const Rows piece = pieces[i];
        CHECK(piece.first == next);
        next += piece.count;
        smallest = std::min(smallest, piece.count);
        largest = std::max(largest, piece.count);
      }
      CAPTURE(count, limit);
      CHECK(next == count);
      CHECK(largest <= limit);
      CHECK(largest - smallest <= 1);
      CHECK(pieces.size() == (count + limit - 1) / limit);   // no more pieces than needed
    }
}

TEST_CASE("for_each_piece visits every element once") {
  std::vector<int> visits(131);
  for_each_piece(Exec{3}, 131, 10, [&](Rows rows) {
    for (Index i = rows.first; i < rows.first + rows.count; ++i) ++visits[static_cast<std::size_t>(i)];
  });
  CHECK(visits == std::vector<int>(131, 1));
}
