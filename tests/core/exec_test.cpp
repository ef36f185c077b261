#include <moegpt/core/exec.hpp>

#include "support/catch.hpp"

#include <atomic>
#include <stdexcept>
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
  exec.parallel_for_worker(2000, [&](Index, int worker) {  // a worker uses its own counters only
    const auto w = static_cast<std::size_t>(worker);
    if (++busy[w] != 1) ++clashes[w];
    --busy[w];
  });
  CHECK(clashes[0] + clashes[1] + clashes[2] == 0);
}

TEST_CASE("a region's loops run every task exactly once, one after another, whatever their sizes") {
  for (const int threads : {1, 2, 3, 8}) {
    std::vector<int> runs(97);
    Exec{threads}.region([&](const Exec& exec) {
      for (Index job = 0; job < 3000; ++job)  // a task reads what the previous job wrote
        exec.parallel_for(job % 97 + 1, [&](Index task) { ++runs[static_cast<std::size_t>(task)]; });
      CHECK(exec.workers() == threads);
    });
    Index total = 0, expected = 0;
    for (const int n : runs) total += n;
    for (Index job = 0; job < 3000; ++job) expected += job % 97 + 1;
    CAPTURE(threads);
    CHECK(total == expected);
  }
}

TEST_CASE("blocked workers wake up for a long job") {
  if (!build_info().openmp) return;
  Exec{2}.region([&](const Exec& exec) {
    std::atomic<int> met{0};  // two tasks that wait for each other need two threads
    exec.parallel_for(2, [&](Index) {
      ++met;
      while (met < 2) met.wait(1);
      met.notify_all();
    });
    CHECK(met == 2);
  });
}

TEST_CASE("a region in a region is the same region") {
  int calls = 0;
  Exec{3}.region([&](const Exec& outer) {
    outer.region([&](const Exec& inner) {
      CHECK(inner.team == outer.team);
      CHECK(inner.threads == 3);
      ++calls;
    });
  });
  CHECK(calls == 1);
}

TEST_CASE("a loop in a task runs on the task's thread and under its worker's number") {
  for (const bool in_region : {false, true})
    for (const int threads : {1, 2, 3}) {
      std::vector<int> runs(20 * 10);
      std::atomic<int> other_workers{0};
      auto nested = [&](const Exec& exec) {
        exec.parallel_for_worker(20, [&](Index task, int worker) {
          exec.parallel_for_worker(10, [&](Index inner, int inner_worker) {
            ++runs[static_cast<std::size_t>(10 * task + inner)];
            if (exec.team && inner_worker != worker) ++other_workers;
          });
        });
      };
      in_region ? Exec{threads}.region(nested) : nested(Exec{threads});
      CAPTURE(threads, in_region);
      CHECK(runs == std::vector<int>(200, 1));
      CHECK(other_workers == 0);
    }
}

TEST_CASE("an exception of a task reaches the caller, and the next loop runs normally") {
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    const Exec exec{threads};
    auto fail = [](Index task) {
      if (task % 7 == 3) throw std::runtime_error("task");
    };
    CHECK_THROWS_WITH(exec.parallel_for(50, fail), "task");
    exec.region([&](const Exec& inner) {
      for (int i = 0; i < 100; ++i) CHECK_THROWS_WITH(inner.parallel_for(50, fail), "task");
      std::atomic<int> runs{0};
      inner.parallel_for(50, [&](Index) { ++runs; });
      CHECK(runs == 50);
    });
    CHECK_THROWS_WITH(exec.region([&](const Exec& inner) { inner.parallel_for(50, fail); }), "task");
    CHECK_THROWS_WITH(exec.region([&](const Exec&) { throw std::runtime_error("body"); }), "body");
  }
}

TEST_CASE("denormals are zero in tasks and regions, on every thread, and preserved after them") {
  const volatile float tiny = std::numeric_limits<float>::min();
  auto half_of_tiny = [&] { return tiny / 2 > 0; };
  for (const int threads : {1, 2, 3}) {
    const Exec exec{threads};
    std::atomic<int> alive{0};
    auto count = [&](Index) { alive += half_of_tiny(); };
    exec.parallel_for(100, count);
    exec.region([&](const Exec& inner) {
      count(0);
      inner.parallel_for(100, count);
    });
    CAPTURE(threads);
    CHECK(alive == 0);
    CHECK(half_of_tiny());
    CHECK_THROWS(exec.region([](const Exec&) { throw std::runtime_error("body"); }));
    CHECK(half_of_tiny());
  }
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
      CHECK(pieces.size() == (count + limit - 1) / limit);  // no more pieces than needed
    }
}

TEST_CASE("for_each_piece visits every element once") {
  std::vector<int> visits(131);
  for_each_piece(Exec{3}, 131, 10, [&](Rows rows) {
    for (Index i = rows.first; i < rows.first + rows.count; ++i) ++visits[static_cast<std::size_t>(i)];
  });
  CHECK(visits == std::vector<int>(131, 1));
}

TEST_CASE("more threads than a process can have, negative tasks and pieces of nothing are rejected") {
  const auto nothing = [](auto) {};
  CHECK_THROWS_WITH(Exec{1 << 30}.region([](const Exec&) {}),
                    ContainsSubstring("1073741824 threads: at most 1024"));
  CHECK_THROWS_AS(Exec{1025}.parallel_for(4, nothing), std::invalid_argument);
  CHECK_THROWS_WITH(Exec{}.parallel_for(-1, nothing), ContainsSubstring("parallel_for got -1 tasks"));
  CHECK_THROWS_WITH(for_each_piece(Exec{2}, 10, 0, nothing),
                    ContainsSubstring("10 elements in pieces of at most 0"));
  CHECK_THROWS_AS(for_each_piece(Exec{2}, 10, -3, nothing), std::invalid_argument);
  CHECK_THROWS_AS(for_each_piece(Exec{2}, -10, 3, nothing), std::invalid_argument);
}
