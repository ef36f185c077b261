#pragma once
// What a training step reads: token ids and what should follow each of them.
#include <moegpt/layers/pass.hpp>

#include <vector>

namespace moegpt::inline MOEGPT_BUILD {

struct Batch {
  Shape shape;
  std::vector<int> inputs{};      // [tokens] ids, one sequence after another
  std::vector<int> targets{};     // [tokens] the id that follows; below zero: ignored
  std::vector<Index> starts{};    // [batch] where in its text each sequence begins, if it comes from one
};

}  // namespace moegpt::inline MOEGPT_BUILD
