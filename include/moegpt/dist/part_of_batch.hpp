#pragma once
// The part of a batch that a rank computes: consecutive sequences, equally many on every rank.
#include <moegpt/model/batch.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The sequences of a batch that rank `rank` of `ranks` has. std::invalid_argument unless each has equally
// many.
inline Batch part_of(const Batch& whole, int rank, int ranks) {
  check(ranks >= 1 && rank >= 0 && rank < ranks, "part_of: there is no rank ", rank, " of ", ranks);
  check(whole.shape.batch % ranks == 0, "part_of: ", ranks, " ranks cannot share ", whole.shape.batch,
        " sequences equally: make the batch a multiple of their number");
  const Index batch = whole.shape.batch / ranks;
  Batch part{{batch, whole.shape.length}};
  const auto take = [&](const auto& from, auto& to) {  // [tokens] or [batch]
    const Index size = std::ssize(from) / ranks;
    check(size * ranks == std::ssize(from), "part_of: a list of the batch has ", from.size(), " entries for ",
          whole.shape.batch, " sequences");
    to.assign(from.begin() + rank * size, from.begin() + (rank + 1) * size);
  };
  take(whole.inputs, part.inputs), take(whole.targets, part.targets), take(whole.starts, part.starts);
  take(whole.lengths, part.lengths), take(whole.documents, part.documents);
  return part;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
