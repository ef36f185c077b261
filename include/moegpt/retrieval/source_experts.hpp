#pragma once
// Experts for kinds of knowledge: for each source label of a passage store, the experts that its passages may
// be routed to. The mask is of a whole pass, so passages of one source are in one batch.
#include <moegpt/routing/allowed_experts.hpp>

#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// SourceExperts<TopKRouter<4, 1>> experts{{0, 1}, {2, 3}};   // of sources 0 and 1
// work.encoder_allowed = experts.of(1);   // `experts` must outlive its use
// std::invalid_argument for a list of experts that AllowedExperts rejects.
template <class Recipe>
class SourceExperts {
 public:
  explicit SourceExperts(std::initializer_list<std::initializer_list<int>> of_sources) {
    for (const auto& experts : of_sources) allowed_.emplace_back(experts);
  }
  const bool* of(int source) const {
    check(source >= 0 && source < static_cast<int>(allowed_.size()), "SourceExperts: source ", source,
          ", expected 0 .. ", static_cast<int>(allowed_.size()) - 1);
    return allowed_[static_cast<std::size_t>(source)];
  }

 private:
  std::vector<AllowedExperts<Recipe>> allowed_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
