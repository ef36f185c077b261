#pragma once
// Positions of the tokens of a batch: token t of sequence b has position first_of(b) + t.
#include <moegpt/core/matrix.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct TokenPositions {
  Index length;                   // tokens of a sequence
  Index first = 0;                // position of token 0 of every sequence, if firsts is null
  const Index* firsts = nullptr;  // [batch] position of token 0 of each sequence

  Index first_of(Index sequence) const { return firsts ? firsts[sequence] : first; }
  Index operator[](Index token) const { return first_of(token / length) + token % length; }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
