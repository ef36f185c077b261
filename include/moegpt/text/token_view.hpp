#pragma once
// TokenView: read access to a sequence of token ids, wherever and in whichever integers they are stored.
#include <moegpt/core/buffer.hpp>

#include <algorithm>
#include <span>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// A type with size() and copy(first, count, to), which writes `count` ids from index `first` on.
template <class Source>
concept TokenSource = requires(const Source& source, Index i, int* to) {
  { source.size() } -> std::convertible_to<Index>;
  source.copy(i, i, to);
};

// Owns nothing: what it is made from must live as long.
class TokenView {
 public:
  TokenView() = default;
  TokenView(std::span<const int> ids)
      : source_(ids.data()), copy_(copy_ints), size_(static_cast<Index>(ids.size())) {}
  TokenView(const std::vector<int>& ids) : TokenView(std::span<const int>(ids)) {}
  template <TokenSource Source>
    requires(!std::same_as<Source, TokenView>)
  TokenView(const Source& source) : source_(&source), copy_(copy_from<Source>), size_(source.size()) {}

  Index size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // to[i] = id of token first + i, for i < count. Throws std::invalid_argument for a run outside the view.
  void copy(Index first, Index count, int* to) const {
    check_run(first, count);
    if (count > 0) copy_(source_, begin_ + first, count, to);
  }
  int operator[](Index i) const {
    int id = 0;
    copy(i, 1, &id);
    return id;
  }
  TokenView part(Index first, Index count) const {
    check_run(first, count);
    TokenView view = *this;
    view.begin_ += first;
    view.size_ = count;
    return view;
  }

 private:
  using Copy = void(const void* source, Index first, Index count, int* to);
  static void copy_ints(const void* source, Index first, Index count, int* to) {
    std::copy_n(static_cast<const int*>(source) + first, count, to);
  }
  template <class Source>
  static void copy_from(const void* source, Index first, Index count, int* to) {
    static_cast<const Source*>(source)->copy(first, count, to);
  }
  void check_run(Index first, Index count) const {
    check(first >= 0 && count >= 0 && first <= size_ - count, count, " tokens from number ", first,
          " on were asked for, of ", size_);
  }

  const void* source_ = nullptr;
  Copy* copy_ = copy_ints;
  Index begin_ = 0, size_ = 0;
};

// f(first, ids) for consecutive pieces of at most `piece` ids.
template <class F>
void for_each_token_piece(TokenView tokens, F&& f, Index piece = 1 << 14) {
  std::vector<int> ids(static_cast<std::size_t>(std::min(piece, tokens.size())));
  for (Index first = 0; first < tokens.size(); first += piece) {
    const Index count = std::min(piece, tokens.size() - first);
    tokens.copy(first, count, ids.data());
    f(first, std::span<const int>(ids.data(), static_cast<std::size_t>(count)));
  }
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
