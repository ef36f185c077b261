#include <moegpt/moe/mixture.hpp>
#include <moegpt/moe/projected_mixture.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/moe/soft_moe.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {

using Small = Expert<6, 5>;
using Routed = MoELayer<TopKRouter<5, 2>, Small>;
using Soft = SoftMoELayer<2, 3, Small>;
using BesideSoft = SharedMixture<Soft, Small, 2>;

// Wrappers without some interface of the inner layer.
struct KeepsTape {
  struct Tape : Routed::Tape {};
  Routed inner;
};
struct HidesTape {
  struct Tape {
    Routed::Tape inner;
  };
  Routed inner;
  auto routed_experts() const { return inner.routed_experts(); }
};
// Members of these names with other types.
struct Foreign {
  int plan, router;
  int routed_experts() const { return 0; }
};

static_assert(HasPlan<Routed::Tape> && HasScores<Routed::Tape> && HasLosses<Routed::Tape> &&
              HasExperts<Routed>);
static_assert(HasPlan<const Routed::Tape> && HasPlan<const Routed::Tape&> && HasExperts<const Routed&>);
static_assert(!HasPlan<Soft::Tape> && !HasScores<Soft::Tape> && !HasLosses<Soft::Tape> && !HasExperts<Soft>);
static_assert(!HasPlan<BesideSoft::Tape> && !HasExperts<BesideSoft>);
static_assert(HasExperts<SharedMixture<Routed, Small, 2>>);
static_assert(HasExperts<ProjectedMixture<TopKRouter<4, 2>, LinearExpert<4, 3>>>);
static_assert(!HasPlan<Foreign> && !HasScores<Foreign> && !HasExperts<Foreign>);
static_assert(WrapsMixture<BesideSoft, Soft> && WrapsMixture<SharedMixture<Routed, Small, 2>, Routed>);
static_assert(!WrapsMixture<KeepsTape, Routed>);  // no experts
static_assert(!WrapsMixture<HidesTape, Routed>);  // no plan, scores, losses
static_assert(WrapsMixture<Routed, Soft>);        // Soft has none

}  // namespace

TEST_CASE("routed experts are those of the inner layer, not copies") {
  const SharedMixture<Routed, Small, 2> beside;
  CHECK(beside.routed_experts().data == beside.routed.experts.data());
  CHECK(beside.routed_experts().count == 5);
  const ProjectedMixture<TopKRouter<4, 2>, LinearExpert<4, 3>> before;
  CHECK(before.routed_experts().data == before.mixture.experts.data());
  CHECK(before.routed_experts().count == 4);
}
