#pragma once
// TokenSequence: the token ids of a corpus, in the smallest integers that hold them, in memory or in mapped
// files, in one piece or several. Copies and parts share the memory.
#include <moegpt/core/random.hpp>
#include <moegpt/text/token_view.hpp>

#include <cmath>
#include <memory>
#include <type_traits>
#include <utility>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class TokenType { u8 = 1, u16 = 2, u32 = 4 };  // unsigned integers of so many bytes
constexpr Index bytes_of(TokenType type) { return static_cast<Index>(type); }
// The smallest type of the ids 0 .. vocab - 1.
constexpr TokenType smallest_type(Index vocab) {
  return vocab <= 1 << 8 ? TokenType::u8 : vocab <= 1 << 16 ? TokenType::u16 : TokenType::u32;
}
// f(U{}) for the unsigned integer U of a type.
template <class F>
decltype(auto) with_integer_of(TokenType type, F&& f) {
  switch (type) {
    case TokenType::u8:
      return f(std::uint8_t{});
    case TokenType::u16:
      return f(std::uint16_t{});
    default:
      return f(std::uint32_t{});
  }
}

class TokenSequence {
 public:
  TokenSequence() = default;
  // `count` ids of a type at `data`, which `memory` keeps alive.
  TokenSequence(const void* data, TokenType type, Index count, std::shared_ptr<const void> memory) {
    if (count > 0) pieces_.push_back({count, data, type, std::move(memory)});
  }
  template <class U>
    requires std::is_unsigned_v<U>
  explicit TokenSequence(std::vector<U> ids) {
    auto memory = std::make_shared<const std::vector<U>>(std::move(ids));
    *this = TokenSequence(memory->data(), TokenType{sizeof(U)}, std::ssize(*memory), memory);
  }

  Index size() const { return pieces_.empty() ? 0 : pieces_.back().end; }
  void append(const TokenSequence& other) {
    const Index before = size();
    for (Piece piece : other.pieces_) {
      piece.end += before;
      pieces_.push_back(std::move(piece));
    }
  }
  // The run must be within the sequence.
  void copy(Index first, Index count, int* to) const {
    auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), first,
                                  [](Index token, const Piece& p) { return token < p.end; });
    for (Index begin = piece == pieces_.begin() ? 0 : piece[-1].end; count > 0; begin = (piece++)->end) {
      const Index some = std::min(count, piece->end - first);
      with_integer_of(piece->type, [&](auto u) {
        std::copy_n(static_cast<const decltype(u)*>(piece->data) + (first - begin), some, to);
      });
      first += some, count -= some, to += some;
    }
  }
  // The run must be within the sequence.
  TokenSequence part(Index first, Index count) const {
    TokenSequence result;
    Index begin = 0;
    for (const Piece& piece : pieces_) {
      const Index from = std::max(first, begin), to = std::min(first + count, piece.end);
      if (from < to) {
        const char* data = static_cast<const char*>(piece.data) + (from - begin) * bytes_of(piece.type);
        result.pieces_.push_back({result.size() + to - from, data, piece.type, piece.memory});
      }
      begin = piece.end;
    }
    return result;
  }

 private:
  struct Piece {
    Index end;  // number of tokens up to its end
    const void* data;
    TokenType type;
    std::shared_ptr<const void> memory;
  };
  std::vector<Piece> pieces_;
};

struct TokenSplit {
  TokenSequence train, val;
};
// Splits by position, as split_corpus does: the first floor(train_fraction * tokens) tokens are for training.
// Throws std::invalid_argument for no tokens, or a fraction outside (0, 1].
inline TokenSplit split_tokens(const TokenSequence& tokens, double train_fraction = 0.9) {
  check(tokens.size() > 0, "a corpus needs tokens; found none");
  check(train_fraction > 0 && train_fraction <= 1, "the fraction to train on must be in (0, 1]; found ",
        train_fraction);
  const auto cut = static_cast<Index>(train_fraction * static_cast<double>(tokens.size()));
  return {tokens.part(0, cut), tokens.part(cut, tokens.size() - cut)};
}

// A number that tells whether a resumed run reads the same tokens: a function of their number and of each id
// at its index, not of files, their names, or integer types:
//   mix64(n + sum_i mix64(golden (i + 1) + id_i)) mod 2^64
// It finds accidental changes, not forgeries. It reads every token.
inline std::uint64_t hash_of(TokenView tokens) {
  std::uint64_t sum = 0, counter = 0;
  for_each_token_piece(tokens, [&](Index, std::span<const int> ids) {
    for (const int id : ids) sum += mix64((counter += Key::golden) + static_cast<std::uint32_t>(id));
  });
  return mix64(static_cast<std::uint64_t>(tokens.size()) + sum);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
