#pragma once
// What a training step reads: token ids, what should follow each of them, and which of them are padding.
#include <moegpt/layers/pass.hpp>

#include <span>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct Batch {
  Shape shape;
  std::vector<int> inputs{};      // [tokens] ids, one sequence after another
  std::vector<int> targets{};     // [tokens] the id that follows; below zero: ignored
  std::vector<Index> starts{};    // [batch] where in its text each sequence begins, if it comes from one
  std::vector<Index> lengths{};   // [batch] tokens before the padding, 0 .. length; empty: all
  std::vector<Rows> documents{};  // [tokens] positions that a token may attend to; empty: all of its sequence
};

// The documents of sequences that hold several, one after another, for Batch::documents: a document ends with
// the id `separator`, and a token attends to tokens of its own document only. inputs [tokens]
inline std::vector<Rows> documents_of(std::span<const int> inputs, Shape shape, int separator) {
  check(std::ssize(inputs) == shape.tokens(), "documents_of got ", inputs.size(), " ids for ", shape.batch,
        " x ", shape.length, " tokens");
  std::vector<Rows> documents(inputs.size());
  for (Index b = 0; b < shape.batch; ++b)
    for (Index begin = 0; begin < shape.length;) {
      Index end = begin;
      while (end < shape.length && inputs[static_cast<std::size_t>(b * shape.length + end++)] != separator) {
      }
      for (Index t = begin; t < end; ++t)
        documents[static_cast<std::size_t>(b * shape.length + t)] = {begin, end - begin};
      begin = end;
    }
  return documents;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
