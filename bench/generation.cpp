// Generation with a key/value cache: tokens per second, for 1 and 8 sequences.
// GB/s counts only the active weights, which every token reads once, for one sequence.
#include "support/table.hpp"
#include "support/workloads.hpp"

using namespace bench;

int main(int argc, char** argv) {
  for (const auto& [model, make] :
       {std::pair{"a_makemoe", &makemoe_writing}, {"c_fine_grained_v65", &fine_grained_writing}})
    for (const int sequences : {1, 8})
      for (const int threads : {1, 2})
        add(name(model, sequences, threads), 20, [=, make = make](benchmark::State& state) {
          const Writing w = make(sequences, threads);
          measure(state,
                  {.bytes = sequences == 1 ? w.bytes : 0.0,
                   .tokens = 1.0 * sequences,
                   .threads = threads,
                   .slice = 10e-3},
                  w.next);
        });
  return bench::run(argc, argv);
}
