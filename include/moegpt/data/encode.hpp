#pragma once
// Text files to tokens, piece by piece, into memory or into token files.
#include <moegpt/core/exec.hpp>
#include <moegpt/data/text_files.hpp>
#include <moegpt/data/token_file.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {

// f(ids, bytes) for each piece of the text, in order, with the number of its bytes.
template <class F>
void for_each_encoded(const TextFiles& text, const Tokenizer& tokenizer, F&& f) {
  text.read([&](const TextPiece& piece) {
    try {
      f(tokenizer.encode(piece.text), piece.text.size());
    } catch (const std::invalid_argument& error) {
      std::string_view reason = error.what();
      if (reason.substr(0, 8) == "moegpt: ") reason.remove_prefix(8);
      reject_file(piece.file.string(), "in the piece from byte ", piece.byte, " on: ", reason);
    }
  });
}

// The same for byte pairs. Pieces are cut between pretokens, and several are encoded at a time. A separator
// that is the text of a special token is that token.
template <class F>
void for_each_encoded(const TextFiles& text, const BytePairs& pairs, const Exec& exec, F&& f) {
  const auto workers = static_cast<std::size_t>(exec.workers());
  std::vector<std::string> pieces;
  std::vector<std::vector<int>> ids(workers);
  std::string waiting;
  const auto encode_pieces = [&] {
    exec.parallel_for(std::ssize(pieces), [&](Index i) {
      auto& of = ids[static_cast<std::size_t>(i)];
      of.clear();
      pairs.encode(pieces[static_cast<std::size_t>(i)], of);
    });
    for (std::size_t i = 0; i < pieces.size(); ++i) f(ids[i], pieces[i].size());
    pieces.clear();
  };
  const auto cut = [&](std::size_t size) {
    if (size == 0) return;
    pieces.push_back(waiting.substr(0, size));
    waiting.erase(0, size);
    if (pieces.size() == workers) encode_pieces();
  };
  const int separator = text.separator.empty() ? -1 : pairs.special(text.separator);
  text.read([&](const TextPiece& piece) {
    if (separator >= 0 && piece.text.data() == text.separator.data()) {
      cut(waiting.size());
      encode_pieces();
      f(std::vector<int>{separator}, text.separator.size());
      return;
    }
    waiting += piece.text;
    if (waiting.size() >= text.chunk) cut(settled_prefix(waiting, pairs.rules().split));
  });
  cut(waiting.size());
  encode_pieces();
}
template <class F>
void for_each_encoded(const TextFiles& text, const Tokenizer& tokenizer, const Exec& exec, F&& f) {
  if (const BytePairs* pairs = tokenizer.byte_pairs())
    for_each_encoded(text, *pairs, exec, f);
  else
    for_each_encoded(text, tokenizer, f);
}

}  // namespace detail

// The tokens of a text, in memory, in the smallest type that holds the tokenizer's ids: 1 byte for each token
// of at most 256 ids, 2 up to 65536. Throws what TextFiles::read throws, and std::runtime_error for
// characters that the tokenizer does not know and for a text without a token.
inline TokenSequence encode(const TextFiles& text, const Tokenizer& tokenizer, const Exec& exec = {}) {
  std::size_t bytes = 0;  // memory that is reserved, but not written, is not used
  for (const auto& path : text.files) bytes += std::filesystem::file_size(path) + text.separator.size();
  return with_integer_of(smallest_type(tokenizer.vocab()), [&](auto u) {
    std::vector<decltype(u)> tokens;
    tokens.reserve(bytes);
    detail::for_each_encoded(text, tokenizer, exec, [&](const std::vector<int>& ids, std::size_t) {
      for (const int id : ids) tokens.push_back(static_cast<decltype(u)>(id));
    });
    if (tokens.empty())
      reject_file(text.files.empty() ? "no file" : text.files[0].string(), "the text is empty");
    return TokenSequence(std::move(tokens));
  });
}

// The same into token files of llm.c, PREFIX_000000.bin and so on, of at most `tokens_per_file` ids each, of
// which one is in memory. progress(bytes of text so far) is called often. Returns the files' names. Throws
// also what write_tokens throws; files that are complete then remain.
inline std::vector<std::filesystem::path> encode_to_files(const TextFiles& text, const Tokenizer& tokenizer,
                                                          const std::filesystem::path& prefix,
                                                          Index tokens_per_file = 100'000'000,
                                                          const Exec& exec = {},
                                                          FunctionRef<std::size_t> progress = {}) {
  check(tokens_per_file > 0, "encode_to_files: ", tokens_per_file,
        " tokens in each file were asked for, expected at least 1");
  const TokenType type = std::max(smallest_type(tokenizer.vocab()), TokenType::u16);
  std::vector<std::filesystem::path> files;
  std::vector<int> waiting;
  const auto write = [&](Index ids) {
    char number[32];
    std::snprintf(number, sizeof number, "_%06zu.bin", files.size());
    files.push_back(prefix);
    files.back() += number;
    write_tokens(files.back(), TokenView(waiting).part(0, ids), type);
    waiting.erase(waiting.begin(), waiting.begin() + ids);
  };
  std::size_t bytes = 0;
  detail::for_each_encoded(text, tokenizer, exec, [&](const std::vector<int>& ids, std::size_t size) {
    bytes += size;
    if (progress) progress(bytes);
    waiting.insert(waiting.end(), ids.begin(), ids.end());
    while (std::ssize(waiting) >= tokens_per_file) write(tokens_per_file);
  });
  if (!waiting.empty()) write(std::ssize(waiting));
  if (files.empty())
    reject_file(text.files.empty() ? "no file" : text.files[0].string(), "the text is empty");
  return files;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
