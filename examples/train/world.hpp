#pragma once
// The processes of a run. World is one process, or with MOEGPT_MPI the ranks of a job (mpi_world.hpp), which
// share each batch and the experts. Rank 0 prints and writes; the others compute.
#ifdef MOEGPT_MPI
#include "mpi_world.hpp"
#else
#include <moegpt/run/records.hpp>

#include "options.hpp"

namespace training {

struct World {
  template <class M>
  using Model = M;

  // Calls f(world) and returns its exit status.
  template <class F>
  static int main(int, char**, F&& f) {
    World world;
    return f(world);
  }
  void declare(CLI::App&) {}
  // As options::run.
  template <class F>
  int run(CLI::App& app, int argc, char** argv, F&& f) {
    return options::run(app, argc, argv, f);
  }

  bool is_first() const { return true; }                            // rank 0
  std::string of_first(std::string text) const { return text; }     // that of rank 0
  std::string first_found(std::string text) const { return text; }  // of the first rank whose is not empty
  int largest(int value) const { return value; }                    // over ranks
  void sum(double*, Index) const {}                                 // over ranks
  void check_equal(const std::string&, const char*) const {}        // of all ranks
  void progress(const char*) const {}  // what this process does now, for the watchdog

  template <class M>
  const Ranks* share() {
    return nullptr;
  }
  Shape part(Shape whole) const { return whole; }
  const Batch& part(const Batch& whole) { return whole; }
  std::span<const Batch> parts(std::span<const Batch> whole) { return whole; }
  template <class Tree>
  void keep_own_experts(Tree&) const {}
  template <class M>
  void reduce(M&) const {}
  template <class M>
  double global_norm(const M& tree, const Exec& exec) const {
    return moegpt::global_norm(tree, exec);
  }
  // f() where all experts are.
  template <class M, class Optimizer, class F>
  void with_all_experts(M&, Optimizer&, F&& f) const {
    f();
  }
  void begin_step() const {}
  void end_step(StepRecord&) const {}
};

}  // namespace training
#endif
