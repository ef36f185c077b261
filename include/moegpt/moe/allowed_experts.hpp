#pragma once
// Hard masks: only some experts may be chosen. For a router the logits of all others are minus infinity, so
// gates of the allowed ones still sum as they should, and a forbidden expert gets neither tokens nor
// gradients.
#include <moegpt/core/matrix.hpp>

#include <initializer_list>

namespace moegpt::inline MOEGPT_BUILD {

// The fewest experts that must be allowed: as many as a token takes. A router that may take all takes what is allowed.
template <class Recipe>
inline constexpr int fewest_allowed = Recipe::active < Recipe::experts ? Recipe::active : 1;

// Argument check of a model. Null allows all.
template <class Recipe>
void check_allowed(const bool* allowed) {
  if (!allowed) return;
  int count = 0;
  for (int e = 0; e < Recipe::experts; ++e) count += allowed[e];
  check(count >= fewest_allowed<Recipe>, "allowed: ", count, " of ", Recipe::experts,
        " experts may be chosen, but the router gives each token ", fewest_allowed<Recipe>, ": allow at least so many");
}

// Experts by their numbers: AllowedExperts<TopKRouter<8, 2>> some{0, 2, 5}; work.allowed = some;
// It must live as long as it is used.
template <class Recipe>
class AllowedExperts {
 public:
  AllowedExperts(std::initializer_list<int> numbers) {
    for (const int e : numbers) {
      check(e >= 0 && e < Recipe::experts, "AllowedExperts: there is no expert ", e, ", expected 0 .. ",
            Recipe::experts - 1);
      check(!allowed_[e], "AllowedExperts: expert ", e, " is named twice");
      allowed_[e] = true;
    }
    check_allowed<Recipe>(*this);
  }
  operator const bool*() const& { return allowed_.data(); }
  operator const bool*() && = delete;   // it would not live long enough

 private:
  Buffer<bool> allowed_{Recipe::experts};
};

}  // namespace moegpt::inline MOEGPT_BUILD
