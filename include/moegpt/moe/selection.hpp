#pragma once
// Selections: which experts a token chooses. select writes at most `most` different experts, best first, and returns
// how many; experts with logit minus infinity are not allowed and stand last or not at all. A selection may then
// leave some out by their gate: keeps(token, gate, j). Choices are constants in backward.
#include <moegpt/core/random.hpp>
#include <moegpt/kernels/softmax.hpp>
#include <moegpt/kernels/top_k.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// What a selection sees of one token.
template <class T>
struct Candidate {
  const T* z;            // [experts] logits
  const T* s;            // [experts] scores
  const T* bias;         // [experts] of the selection, if it is biased
  int experts, most;     // E, K
  const Key* noise;      // null: evaluation
  Index number;          // which token this is, for draws
};

// The K largest logits. Equal logits: the lower expert.
struct LargestLogits {
  static constexpr bool biased = false;
  template <class T>
  static int select(const Candidate<T>& token, int* chosen) {
    kernels::top_k(token.z, token.experts, token.most, chosen);
    return token.most;
  }
};

}  // namespace moegpt::inline MOEGPT_BUILD
