#pragma once
// Selections: which experts a token chooses. select writes at most `most` different experts, best first, and returns
// how many; experts with logit minus infinity are not allowed and stand last or not at all. A selection may then
// leave some out by their gate: keeps(token, gate, j). Choices are constants in backward.
#include <moegpt/kernels/top_k.hpp>
#include <moegpt/layers/pass.hpp>
#include <moegpt/moe/scores.hpp>

#include <ratio>

namespace moegpt::inline MOEGPT_BUILD {

// What a selection sees of one token.
template <class T>
struct Candidate {
  const T* z;            // [experts] logits
  const T* s;            // [experts] scores
  const T* bias;         // [experts] of the selection, if it is biased
  int experts, choices;     // E, K
  const Key* noise;      // of draws; null: evaluation
  const Pass& pass;
  Index token;
  bool allows(int e) const { return !(z[e] == kernels::minus_infinity<T>); }
};

// The K largest logits. Equal logits: the lower expert.
struct LargestLogits {
  static constexpr bool biased = false;
  template <class T>
  static int select(const Candidate<T>& token, int* chosen) {
    kernels::top_k(token.z, token.experts, token.choices, chosen);
    return token.choices;
  }
};

// The K largest s + b, with b the selection bias (Wang et al. 2024), or the K largest s. With groups (DeepSeek-V3):
// experts lie in `Groups` equal groups, and only those of the `Kept` best groups may be chosen. A group is as good as
// its two best experts together, without a bias as its best one.
template <bool Biased, int Groups = 1, int Kept = 1>
struct LargestScores {
  static constexpr bool biased = Biased;
  template <class T>
  static int select(const Candidate<T>& token, int* chosen) {
    T rank[most_experts];
    for (int e = 0; e < token.experts; ++e) {
      rank[e] = Biased ? token.s[e] + token.bias[e] : token.s[e];
      if (!token.allows(e)) rank[e] = kernels::minus_infinity<T>;
    }
    if constexpr (Kept < Groups) keep_best_groups(rank, token.experts / Groups);
    kernels::top_k(rank, token.experts, token.choices, chosen);
    int count = token.choices;
    while (count > 0 && rank[chosen[count - 1]] == kernels::minus_infinity<T>) --count;
    return count;
  }

 private:
  template <class T>
  static void keep_best_groups(T* rank, int size) {
    T value[Groups];
    for (int g = 0; g < Groups; ++g) {
      int best[2];
      kernels::top_k(rank + g * size, size, Biased && size > 1 ? 2 : 1, best);
      value[g] = rank[g * size + best[0]];
      if (Biased && size > 1 && rank[g * size + best[1]] != kernels::minus_infinity<T>)
        value[g] += rank[g * size + best[1]];
    }
    int kept[Kept];
    kernels::top_k(value, Groups, Kept, kept);
    for (int g = 0; g < Groups; ++g)
      if (std::find(kept, kept + Kept, g) == kept + Kept)
        std::fill_n(rank + g * size, size, kernels::minus_infinity<T>);
  }
};

// The fewest experts whose scores reach P together, at most K: best first, as many as it takes.
template <class P>
struct Nucleus {
  static constexpr bool biased = false;
  template <class T>
  static int select(const Candidate<T>& token, int* chosen) {
    kernels::top_k(token.z, token.experts, token.choices, chosen);
    if (P::num == P::den) return token.choices;   // rounding must not end it
    T reached = 0;
    for (int j = 0; j < token.choices; ++j) {
      reached += token.s[chosen[j]];
      if (reached >= T(P::num) / T(P::den)) return j + 1;
    }
    return token.choices;
  }
};

// All experts, in their order.
struct EveryExpert {
  static constexpr bool biased = false;
  template <class T>
  static int select(const Candidate<T>& token, int* chosen) {
    int count = 0;
    for (int e = 0; e < token.experts; ++e)
      if (token.allows(e)) chosen[count++] = e;
    return count;
  }
};

}  // namespace moegpt::inline MOEGPT_BUILD
