#pragma once
// A text as tokens, split into a training and a validation part, and batches of either: random windows for
// training, sequential windows for evaluation, in which each token is a target once.
#include <moegpt/core/random.hpp>
#include <moegpt/model/batch.hpp>
#include <moegpt/text/token_view.hpp>
#include <moegpt/text/tokenizer.hpp>

#include <array>
#include <cerrno>
#include <cstring>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The bytes of a file. Throws std::invalid_argument if it is missing, a directory, unreadable or empty.
inline std::string read_text(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  check(file != nullptr, "cannot open '", path, "' to read a text: ", std::strerror(errno));
  std::string text;
  std::array<char, 1 << 16> piece;
  errno = 0;
  while (const std::size_t got = std::fread(piece.data(), 1, piece.size(), file))
    text.append(piece.data(), got);
  const int error = std::ferror(file) ? errno : 0;
  std::fclose(file);
  check(error == 0, "cannot read a text from '", path, "': ", std::strerror(error));
  check(!text.empty(), "'", path, "' is empty; a text to train on needs at least a few sentences");
  return text;
}

// The length of a text, to convert a loss per token to one per character or byte: times tokens / characters,
// or tokens / bytes.
struct TextLength {
  Index characters = 0;  // Unicode code points; 0: the text is not UTF-8
  Index bytes = 0;
};
// `text` is a part of `whole` and may begin or end within a character; a character counts where it begins.
inline TextLength length_of(std::string_view text, std::string_view whole) {
  TextLength length{0, std::ssize(text)};
  if (utf8::first_invalid(whole) == std::string_view::npos)
    for (const char c : text) length.characters += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return length;
}

struct Corpus {
  std::vector<int> train, val;  // training and validation tokens: first and second part of the text
  Tokenizer tokenizer;
};

// Splits by position, as nanoGPT and makeMoE do: the first floor(train_fraction * tokens) tokens are for
// training. Throws std::invalid_argument for an empty text, characters unknown to the tokenizer, or a
// fraction outside (0, 1].
inline Corpus split_corpus(std::string_view text, Tokenizer tokenizer, double train_fraction = 0.9) {
  check(!text.empty(), "a corpus needs a text; found an empty one");
  check(train_fraction > 0 && train_fraction <= 1, "the fraction to train on must be in (0, 1]; found ",
        train_fraction);
  Corpus corpus{tokenizer.encode(text), {}, std::move(tokenizer)};
  const auto cut = static_cast<Index>(train_fraction * static_cast<double>(corpus.train.size()));
  corpus.val.assign(corpus.train.begin() + cut, corpus.train.end());
  corpus.train.resize(static_cast<std::size_t>(cut));
  return corpus;
}

namespace batching {

// Reuses memory of earlier batches, so that a training loop does not allocate.
inline void resize(Batch& b) {
  b.inputs.resize(static_cast<std::size_t>(b.shape.tokens()));
  b.targets.resize(static_cast<std::size_t>(b.shape.tokens()));
  b.starts.resize(static_cast<std::size_t>(b.shape.batch));
  b.lengths.clear();  // windows have no padding
  b.documents.clear();
}

inline void set_row(TokenView tokens, Batch& b, Index row, Index start) {
  const Index length = b.shape.length;
  b.starts[static_cast<std::size_t>(row)] = start;
  int *inputs = b.inputs.data() + row * length, *targets = b.targets.data() + row * length;
  tokens.copy(start, length, inputs);
  std::copy(inputs + 1, inputs + length, targets);
  tokens.copy(start + length, 1, targets + length - 1);
}

inline void check_sizes(Index batch, Index length) {
  check(batch > 0, "a batch needs at least one sequence; found batch = ", batch);
  check(length > 0, "a sequence needs at least one token; found length = ", length);
}
inline void check_window(Index tokens, Shape shape) {
  check_sizes(shape.batch, shape.length);
  check(tokens > shape.length, "a sequence of ", shape.length, " tokens and its targets need ",
        shape.length + 1, " tokens; this part of the text has ", tokens,
        ". Use a longer text or a smaller length");
}

}  // namespace batching

// Fills `b`, of its shape, with windows of `tokens`. Starts are sampled uniformly with replacement; the start
// of row r is a function of the key and r. Each step needs its own key:
//     sample_batch(corpus.train, b, seed.with(Purpose::batch, step));
// Throws std::invalid_argument if batch or length is not positive or there are fewer than length + 1 tokens.
inline void sample_batch(TokenView tokens, Batch& b, Key key) {
  batching::check_window(tokens.size(), b.shape);
  const Index starts = tokens.size() - b.shape.length;
  batching::resize(b);
  Rng rng(key);  // one draw per row
  for (Index row = 0; row < b.shape.batch; ++row)
    batching::set_row(tokens, b, row, static_cast<Index>(rng.below(static_cast<std::uint64_t>(starts))));
}

// Sequential evaluation: the tokens in order, in batches of windows that do not overlap, so each token but
// the first is a target exactly once. The last full batch may have fewer windows, and a batch of one shorter
// window may follow. So a mean weights each batch by its tokens:
//     const Windows windows{corpus.val, batch, length};
//     for (Index i = 0; i < windows.size(); ++i) {
//       windows.read(i, b);
//       total += b.shape.tokens() * mean_loss(b);
//     }
struct Windows {
  TokenView tokens;
  Index batch, length;  // of every batch but the last two

  // Number of batches. Throws std::invalid_argument if batch or length is not positive or no token has a
  // target.
  Index size() const {
    batching::check_sizes(batch, length);
    check(targets() > 0, "an evaluation needs at least 2 tokens; this part of the text has ", tokens.size());
    return full_batches() + (targets() % length > 0 ? 1 : 0);
  }

  // Sets `b`, with its shape, to batch i in [0, size()). Throws std::invalid_argument for another i.
  void read(Index i, Batch& b) const {
    const Index batches = size(), rows = targets() / length;
    check(i >= 0 && i < batches, "evaluation batch ", i, " is outside [0, ", batches, ")");
    const bool rest = i == full_batches();
    const Index first = rest ? rows : i * batch;
    b.shape.batch = rest ? 1 : std::min(batch, rows - first);
    b.shape.length = rest ? targets() % length : length;
    batching::resize(b);
    for (Index row = 0; row < b.shape.batch; ++row) batching::set_row(tokens, b, row, (first + row) * length);
  }

 private:
  Index targets() const { return tokens.size() - 1; }
  Index full_batches() const { return (targets() / length + batch - 1) / batch; }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
