#pragma once
// Batches of training windows, in an order that a cursor of integers resumes exactly.
#include <moegpt/data/permutation.hpp>
#include <moegpt/data/token_sequence.hpp>
#include <moegpt/train/corpus.hpp>

#include <optional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class WindowOrder {
  random,    // independent and uniform: sample_batch with a key of its own for each batch
  shuffled,  // windows that do not overlap, each once in an epoch, in another order in each epoch
};

struct BatchOptions {
  Shape shape{};  // of a batch
  WindowOrder order = WindowOrder::random;
  // Hides documents from each other (hide_documents): a document ends with this id. None: tokens attend to
  // all of their window.
  std::optional<int> separator{};
};

// What the next batch depends on, besides tokens, options and key.
struct DataCursor {
  std::int64_t batches = 0, windows = 0;  // read so far
  bool operator==(const DataCursor&) const = default;
};

// A token of the batch attends to its own document only, and has no target in the next one.
inline void hide_documents(Batch& b, int separator) {
  set_documents(b.inputs, b.shape, separator, b.documents);
  for (std::size_t n = 0; n < b.inputs.size(); ++n)
    if (b.inputs[n] == separator) b.targets[n] = -1;
}

// Window w of an epoch has the inputs w * length .. (w + 1) * length - 1. The last (tokens - 1) % length
// inputs are in no window of WindowOrder::shuffled. A batch may end one epoch and begin the next.
class Batches {
 public:
  // std::invalid_argument for sizes that are not positive, and fewer tokens than a window and its targets
  // need.
  Batches(TokenSequence tokens, BatchOptions options, Key key)
      : tokens_(std::move(tokens)), options_(options), key_(key) {
    batching::check_window(tokens_.size(), options_.shape);
  }

  // Sets all of `b`. Does not allocate from the second batch on.
  void next(Batch& b) {
    b.shape = options_.shape;
    if (options_.order == WindowOrder::random) {
      sample_batch(tokens_, b, key_.with(Purpose::batch, cursor_.batches));
    } else {
      batching::resize(b);
      for (Index row = 0; row < b.shape.batch; ++row)
        batching::set_row(tokens_, b, row, start_of(cursor_.windows + row));
    }
    if (options_.separator) hide_documents(b, *options_.separator);
    ++cursor_.batches;
    cursor_.windows += b.shape.batch;
  }

  const DataCursor& cursor() const { return cursor_; }
  // The next batch is the one that followed this cursor. std::invalid_argument for a negative number.
  void seek(const DataCursor& cursor) {
    check(cursor.batches >= 0 && cursor.windows >= 0, "a data cursor has ", cursor.batches, " batches and ",
          cursor.windows, " windows: neither may be negative");
    cursor_ = cursor;
  }

  // Windows of an epoch: those that do not overlap.
  std::int64_t windows_of_epoch() const { return (tokens_.size() - 1) / options_.shape.length; }
  double epochs() const {
    return static_cast<double>(cursor_.windows) / static_cast<double>(windows_of_epoch());
  }
  std::uint64_t hash() const { return hash_of(tokens_); }
  const TokenSequence& tokens() const { return tokens_; }
  const BatchOptions& options() const { return options_; }

 private:
  Index start_of(std::int64_t window) const {
    const auto size = windows_of_epoch();
    const Permutation order{static_cast<std::uint64_t>(size),
                            key_.with(Purpose::window_order, window / size)};
    return static_cast<Index>(order(static_cast<std::uint64_t>(window % size))) * options_.shape.length;
  }

  TokenSequence tokens_;
  BatchOptions options_;
  Key key_;
  DataCursor cursor_{};
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
