#pragma once
// Retrieval by concatenation (Guu et al. 2020, Lewis et al. 2020): passages are placed before the text, in
// the context of any decoder. Their tokens are no targets.
#include <moegpt/model/batch.hpp>
#include <moegpt/retrieval/passage_store.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// `batch` with the passages found [batch, k] before each sequence, in this order; Neighbours::none is
// skipped. passage_tokens: the number of tokens for the passages of a sequence; what exceeds it is cut. The
// result has sequences of passage_tokens + length tokens, with padding where passages do not fill them.
// starts and documents are not kept. std::invalid_argument for a batch without targets, another number of
// found or a negative passage_tokens.
inline Batch with_passages(const Batch& batch, const PassageStore& store, std::span<const Index> found,
                           Index passage_tokens) {
  const Shape shape = batch.shape;
  check(shape.batch > 0 && shape.length > 0 && std::ssize(batch.inputs) == shape.tokens() &&
            std::ssize(batch.targets) == shape.tokens(),
        "with_passages got ", batch.inputs.size(), " ids and ", batch.targets.size(), " targets for ",
        shape.batch, " x ", shape.length, " tokens: one each");
  check(std::ssize(found) % shape.batch == 0, "with_passages got ", found.size(), " passages for ",
        shape.batch, " sequences, expected as many for each");
  check(passage_tokens >= 0, "with_passages: passage_tokens is ", passage_tokens, ", expected 0 or more");
  check(batch.lengths.empty() || std::ssize(batch.lengths) == shape.batch, "with_passages got ",
        batch.lengths.size(), " lengths for ", shape.batch, " sequences: one each, or none");
  const Index each = std::ssize(found) / shape.batch;
  Batch whole{{shape.batch, passage_tokens + shape.length}};
  whole.inputs.assign(static_cast<std::size_t>(whole.shape.tokens()), 0);
  whole.targets.assign(static_cast<std::size_t>(whole.shape.tokens()), -1);
  for (Index b = 0; b < shape.batch; ++b) {
    const Index own = batch.lengths.empty() ? shape.length : batch.lengths[static_cast<std::size_t>(b)];
    check(own >= 0 && own <= shape.length, "with_passages: sequence ", b, " has length ", own,
          ", expected 0 .. ", shape.length);
    const Index begin = b * whole.shape.length;
    Index filled = 0;
    for (Index p = 0; p < each; ++p) {
      const Index passage = found[static_cast<std::size_t>(b * each + p)];
      if (passage == Neighbours::none) continue;
      const std::span<const int> text = store.text(passage);
      const Index count = std::min<Index>(std::ssize(text), passage_tokens - filled);
      std::copy_n(text.begin(), count, whole.inputs.begin() + begin + filled);
      filled += count;
    }
    std::copy_n(batch.inputs.begin() + b * shape.length, own, whole.inputs.begin() + begin + filled);
    std::copy_n(batch.targets.begin() + b * shape.length, own, whole.targets.begin() + begin + filled);
    whole.lengths.push_back(filled + own);
  }
  return whole;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
