#pragma once
// Selection rules of token choice. select stores at most `choices` different experts, best first, and returns
// their number; experts that are not allowed (logit minus infinity) come last or not at all. A rule with
// keeps(token, gate, j) discards the j-th selected expert if false. Selections are constants in backward.
#include <moegpt/kernels/top_k.hpp>
#include <moegpt/layers/pass.hpp>
#include <moegpt/routing/scores.hpp>

#include <ratio>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The input of a selection rule: one token.
template <class T>
struct Candidate {
  const T* z;            // [experts] logits
  const T* s;            // [experts] scores
  const T* bias;         // [experts] selection bias, for rules with `biased`
  int experts, choices;  // E, K
  const Key* noise;      // RNG key; null: evaluation
  const Pass& pass;
  Index token;
  bool allows(int e) const { return !(z[e] == kernels::minus_infinity<T>); }
};

// The K largest logits. Ties: the lower expert first.
struct LargestLogits {
  static constexpr bool biased = false;
  template <class T>
  static int select(const Candidate<T>& token, int* chosen) {
    kernels::top_k(token.z, token.experts, token.choices, chosen);
    return token.choices;
  }
};

// The K largest s + b, with selection bias b (Wang et al. 2024), or the K largest s. Group-limited
// (DeepSeek-V3): of `Groups` equal expert groups the `Kept` best are retained. The value of a group is the
// sum of its two largest s + b, without a bias its largest s.
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

// Top-p: the fewest experts whose scores sum to at least P, largest first, at most K.
template <class P>
struct Nucleus {
  static constexpr bool biased = false;
  template <class T>
  static int select(const Candidate<T>& token, int* chosen) {
    kernels::top_k(token.z, token.experts, token.choices, chosen);
    if (P::num == P::den) return token.choices;  // independent of rounding in the sum
    T reached = 0;
    for (int j = 0; j < token.choices; ++j) {
      reached += token.s[chosen[j]];
      if (reached >= T(P::num) / T(P::den)) return j + 1;
    }
    return token.choices;
  }
};

// All allowed experts, in index order.
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

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
