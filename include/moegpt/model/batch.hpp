#pragma once
// What a training step reads: token ids, what should follow each of them, and which of them are padding.
#include <moegpt/layers/pass.hpp>

#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct Batch {
  Shape shape;
  std::vector<int> inputs{};    // [tokens] ids, one sequence after another
  std::vector<int> targets{};   // [tokens] the id that follows; below zero: ignored
  std::vector<Index> starts{};  // [batch] where in its text each sequence begins, if it comes from one
  std::vector<Index>
      lengths{};  // [batch] tokens of each sequence before its padding, 0 .. length; empty: all
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
