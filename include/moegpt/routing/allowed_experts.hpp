#pragma once
// Allowed experts: the others cannot be selected in this pass. Routers set the logits of the others to minus
// infinity, so the gates are those of a router without them, and they get neither tokens nor gradients.
#include <moegpt/core/matrix.hpp>

#include <initializer_list>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Minimum number of allowed experts: `active`, or 1 for a router that can select all experts.
template <class Recipe>
inline constexpr int fewest_allowed = Recipe::active < Recipe::experts ? Recipe::active : 1;

// std::invalid_argument if fewer than fewest_allowed of allowed [experts] are true. Null allows all.
template <class Recipe>
void check_allowed(const bool* allowed) {
  if (!allowed) return;
  int count = 0;
  for (int e = 0; e < Recipe::experts; ++e) count += allowed[e];
  check(count >= fewest_allowed<Recipe>, "allowed: ", count, " of ", Recipe::experts,
        " experts may be chosen, but the router gives each token ", fewest_allowed<Recipe>,
        ": allow at least so many");
}

// AllowedExperts<TopKRouter<8, 2>> some{0, 2, 5}; work.allowed = some;   // `some` must outlive its use
// std::invalid_argument for an index out of range or given twice, and for fewer than fewest_allowed.
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
  operator const bool*() && = delete;  // a temporary would dangle

 private:
  Buffer<bool> allowed_{Recipe::experts};
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
