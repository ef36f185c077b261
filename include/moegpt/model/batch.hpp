#pragma once
// Batch: token ids, targets, padding and document boundaries of a forward with a loss.
#include <moegpt/layers/pass.hpp>

#include <span>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct Batch {
  Shape shape;
  std::vector<int> inputs{};      // [tokens] ids, batch-major
  std::vector<int> targets{};     // [tokens] target id, usually the next token; below 0: ignored. Of a
                                  // Classifier: classes, [batch] or [tokens]
  std::vector<Index> starts{};    // [batch] index of each sequence's first token in the corpus, if known
  std::vector<Index> lengths{};   // [batch] tokens before the padding, 0 .. length; empty: no padding
  std::vector<Rows> documents{};  // [tokens] positions that a token may attend to; empty: its whole sequence
};

// Batch::documents [tokens] for packed sequences: a document ends with the id `separator`, and attention is
// limited to a token's own document. inputs [tokens]. std::invalid_argument for another number of ids.
inline void set_documents(std::span<const int> inputs, Shape shape, int separator,
                          std::vector<Rows>& documents) {
  check(std::ssize(inputs) == shape.tokens(), "documents_of got ", inputs.size(), " ids for ", shape.batch,
        " x ", shape.length, " tokens");
  documents.resize(inputs.size());
  for (Index b = 0; b < shape.batch; ++b)
    for (Index begin = 0; begin < shape.length;) {
      Index end = begin;
      while (end < shape.length && inputs[static_cast<std::size_t>(b * shape.length + end++)] != separator) {
      }
      for (Index t = begin; t < end; ++t)
        documents[static_cast<std::size_t>(b * shape.length + t)] = {begin, end - begin};
      begin = end;
    }
}
inline std::vector<Rows> documents_of(std::span<const int> inputs, Shape shape, int separator) {
  std::vector<Rows> documents;
  set_documents(inputs, shape, separator, documents);
  return documents;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
