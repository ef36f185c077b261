#pragma once
// A sweep: runs of many cells and seeds, by one or more jobs of one thread each. Seeds are the outer loop, so
// that an interrupted sweep has whole tables of fewer seeds. Runs that are recorded are not repeated.
#include "../../examples/options.hpp"
#include "records.hpp"

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <thread>

#include <unistd.h>

namespace bench {

// Options of every experiment.
struct SweepOptions {
  long seeds = 3;
  int jobs = 1;
  bool report = false;
  std::string folder = "docs/evidence", document = "docs/evidence.md", rows;
};
inline void add_options(CLI::App& app, SweepOptions& o) {
  using namespace options;
  app.add_option("--seeds", o.seeds, "Runs of each row (default 3)")->check(whole(1, 1000));
  app.add_option("--jobs", o.jobs, "Runs at a time, each of one thread (default 1)")->check(threads());
  app.add_flag("--report", o.report, "Trains nothing: makes tables and pictures of what is recorded");
  app.add_option("--rows", o.rows, "Trains only rows whose name has this text");
  app.add_option("--folder", o.folder, "Of records and pictures (default docs/evidence)")->check(file_name());
  app.add_option("--document", o.document, "Whose tables are replaced (default docs/evidence.md)")
      ->check(file_name());
}

// The CPU time of this thread in seconds: with one thread per run, other programs change it little.
inline double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Shows how far a run is: a share of its FLOPs and a loss.
using Progress = std::function<void(double share, double loss)>;

struct Cell {
  std::string name;
  Record key;        // members by which a record of it is found, without the seed
  double flops = 0;  // of a run, for the time left
  std::function<Record(std::uint64_t seed, const Progress&)> run;
};

inline void sweep(Records& records, const std::vector<Cell>& cells, const SweepOptions& o) {
  struct Job {
    const Cell* cell;
    std::uint64_t seed;
    Record key;
  };
  std::vector<Job> jobs;
  double left = 0, done = 0, minutes = 0;
  const bool terminal = isatty(2) == 1;
  for (long seed = 1; seed <= o.seeds; ++seed)
    for (const Cell& cell : cells) {
      if (cell.name.find(o.rows) == std::string::npos) continue;
      Record key = cell.key;
      key["seed"] = seed;
      if (records.has(key)) continue;
      left += cell.flops;
      jobs.push_back({&cell, static_cast<std::uint64_t>(seed), key});
    }
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  std::mutex mutex;
  std::atomic<std::size_t> next{0};
  std::exception_ptr error;
  std::vector<double> parts(jobs.size());  // FLOPs of each run so far
  const auto work = [&] {
    for (std::size_t i; (i = next++) < jobs.size();) try {
        const Job& job = jobs[i];
        const Record result = job.cell->run(job.seed, [&](double share, double loss) {
          const std::lock_guard lock(mutex);
          parts[i] = share * job.cell->flops;
          done = 0;
          for (const double part : parts) done += part;
          const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
          minutes = done > 0 ? seconds * (left - done) / done / 60 : 0;
          if (terminal)
            std::fprintf(stderr, "\r\x1b[K%zu of %zu: %s, seed %d, %.0f %%, loss %.3f | %.0f minutes left",
                         i + 1, jobs.size(), job.cell->name.c_str(), static_cast<int>(job.seed), 100 * share,
                         loss, minutes);
        });
        const std::lock_guard lock(mutex);
        parts[i] = job.cell->flops;
        Record record = job.key;
        record.update(result);
        records.add(record);
        std::fprintf(stderr, "%s%s, seed %d: loss %.4f | %.0f minutes left\n", terminal ? "\r\x1b[K" : "",
                     job.cell->name.c_str(), static_cast<int>(job.seed), record.at("val").get<double>(),
                     minutes);
      } catch (...) {
        const std::lock_guard lock(mutex);
        error = std::current_exception();
        next = jobs.size();
      }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < o.jobs; ++i) others.emplace_back(work);
  work();
  for (auto& other : others) other.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace bench
