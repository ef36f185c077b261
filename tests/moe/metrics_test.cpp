#include <moegpt/moe/metrics.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

// Six tokens, two choices, four experts. Token 3 has one expert, token 5 is padding, expert 3 has no token.
const int chosen[12] = {0, 1, 1, 0, 0, 2, 0, no_expert, 2, 1, no_expert, no_expert};
const double gate[12] = {0.6, 0.4, 0.9, 0.1, 0.7, 0.3, 1, 0, 0.5, 0.5, 0, 0};
const Index lengths[1] = {5};

RoutingPlan<double> plan_of(Index capacity) {
  RoutingPlan<double> plan;
  plan.resize(6, 2, 4);
  plan.assign(chosen, gate, capacity);
  return plan;
}
// One-hot for the first four tokens, uniform for the fifth; the sixth is padding and is not counted.
Tokens<4, double> scores() {
  Tokens<4, double> s(6);
  for (Index n = 0; n < 4; ++n) s[n][n % 2] = 1;
  for (int e = 0; e < 4; ++e) s[4][e] = 0.25, s[5][e] = 100;
  return s;
}
Tokens<1, double> lse() {
  Tokens<1, double> z(6);
  for (Index n = 0; n < 6; ++n) *z[n] = static_cast<double>(n);
  return z;
}
RoutingCounts counts_of(Index capacity, int times = 1) {
  const Pass pass{.shape = {1, 6}, .lengths = lengths};
  RoutingCounts counts;
  for (int i = 0; i < times; ++i) counts.add(plan_of(capacity), scores(), lse(), pass);
  return counts;
}

}  // namespace

TEST_CASE("MaxVio is the excess of the fullest expert over the mean") {
  CHECK(max_violation(std::vector<Index>{5, 5, 5, 5}) == 0);
  CHECK(max_violation(std::vector<Index>{9, 5, 4, 2}) == Approx(0.8));  // (9 - 5) / 5
  CHECK(max_violation(std::vector<Index>{0, 0, 7, 0}) == 3);
  CHECK(max_violation(std::vector<Index>{0, 0}) == 0);
}

TEST_CASE("the coefficient of variation divides by the number of experts") {
  CHECK(coefficient_of_variation(std::vector<Index>{5, 5, 5}) == 0);
  CHECK(coefficient_of_variation(std::vector<Index>{2, 6}) == Approx(0.5));  // standard deviation 2, mean 4
  CHECK(coefficient_of_variation(std::vector<Index>{0, 0, 7, 0}) == Approx(std::sqrt(3)));
  CHECK(coefficient_of_variation(std::vector<Index>{0, 0}) == 0);
}

TEST_CASE("an expert without tokens is dead") {
  CHECK(dead_experts(std::vector<Index>{3, 0, 1, 0}) == 2);
  CHECK(dead_experts(std::vector<Index>{3, 1}) == 0);
}

TEST_CASE("entropy is zero for one-hot and ln n for n equal values, whatever their sum") {
  const double one[3] = {0, 2, 0}, equal[4] = {5, 5, 5, 5}, two[3] = {1, 3, 0};
  CHECK(entropy(one, 3) == 0);
  CHECK(entropy(equal, 4) == Approx(std::log(4)));
  CHECK(entropy(two, 3) == Approx(0.25 * std::log(4) + 0.75 * std::log(4. / 3)));
}

TEST_CASE("each pair has the expert that processes it") {
  Buffer<int> expert;
  experts_of_pairs(plan_of(0), expert);
  CHECK(std::vector(expert.begin(), expert.end()) == std::vector<int>(chosen, chosen + 12));
  experts_of_pairs(plan_of(2), expert);  // experts 0 and 1 drop their third tokens and later ones
  CHECK(std::vector(expert.begin(), expert.end()) ==
        std::vector<int>{0, 1, 1, 0, -1, 2, -1, -1, 2, -1, -1, -1});
}

TEST_CASE("saturation is the fraction of experts that tokens have in common, in any order") {
  const std::vector<int> a{0, 1, 2, 3, 4, 5}, same_sets{1, 0, 3, 2, 5, 4}, half{0, 7, 8, 2, 5, 9},
      none{2, 3, 0, 1, 6, 7};
  CHECK(saturation(a, a, 2) == 1);
  CHECK(saturation(a, same_sets, 2) == 1);
  CHECK(saturation(a, half, 2) == Approx(0.5));
  CHECK(saturation(a, none, 2) == 0);
  CHECK(saturation(std::vector<int>{0, no_expert}, std::vector<int>{0, 1}, 2) == Approx(2. / (1 + 2)));
  CHECK(refusal([&] { saturation(a, std::vector<int>{0, 1}, 2); }).find("6 and 2 pairs") !=
        std::string::npos);
}

TEST_CASE("counts of a plan are those of its pairs") {
  const RoutingCounts counts = counts_of(0);
  CHECK(counts.tokens == 5);
  CHECK(counts.load == std::vector<Index>{4, 3, 2, 0});
  CHECK(counts.wanted == counts.load);
  CHECK(counts.max_violation() == Approx(4 / 2.25 - 1));
  CHECK(counts.cv() == Approx(std::sqrt((1.75 * 1.75 + 0.75 * 0.75 + 0.25 * 0.25 + 2.25 * 2.25) / 4) / 2.25));
  CHECK(counts.dead() == 1);
  CHECK(counts.dropped() == 0);
  CHECK(counts.share(1) == Approx(3. / 9));
  CHECK(counts.load_entropy() ==
        Approx(-(4. / 9 * std::log(4. / 9) + 3. / 9 * std::log(3. / 9) + 2. / 9 * std::log(2. / 9))));
  CHECK(counts.mean_top_gate() == Approx((0.6 + 0.9 + 0.7 + 1 + 0.5) / 5));
}

TEST_CASE("mean scores are over tokens that are not padding") {
  const RoutingCounts counts = counts_of(0);
  CHECK(counts.mean_entropy() == Approx(std::log(4) / 5));  // of one token in five
  CHECK(counts.mean_lse2() == Approx((1 + 4 + 9 + 16) / 5.));
  CHECK(counts.mean_score(0) == Approx(2.25 / 5));
  CHECK(counts.mean_score(3) == Approx(0.25 / 5));
}

TEST_CASE("co-activation is the fraction of tokens that use both experts") {
  const RoutingCounts counts = counts_of(0);
  CHECK(counts.coactivation(0, 1) == Approx(2. / 5));
  CHECK(counts.coactivation(1, 0) == Approx(2. / 5));
  CHECK(counts.coactivation(0, 2) == Approx(1. / 5));
  CHECK(counts.coactivation(2, 1) == Approx(1. / 5));
  CHECK(counts.coactivation(0, 0) == Approx(4. / 5));  // that use it at all
  CHECK(counts.coactivation(3, 0) == 0);
}

TEST_CASE("dropped pairs are requested, not processed") {
  const RoutingCounts counts = counts_of(2);
  static const Index served[4] = {
      2, 2, 2, 0};  // static: g++ 12 with AVX-512 makes a temporary list of them {2, 2, 2, 2}
  CHECK(std::equal(counts.load.begin(), counts.load.end(), served, served + 4));
  CHECK(counts.wanted == std::vector<Index>{4, 3, 2, 0});
  CHECK(counts.dropped() == Approx(3. / 9));
  CHECK(counts.max_violation() == Approx(4 / 2.25 - 1));  // of requested pairs, before capacity
  CHECK(counts.mean_top_gate() == Approx((0.6 + 0.9 + 0.3 + 0 + 0.5) / 5));
  CHECK(counts.coactivation(0, 2) == 0);
}

TEST_CASE("counts add up over forwards, and ratios stay the same") {
  const RoutingCounts once = counts_of(0), thrice = counts_of(0, 3);
  CHECK(thrice.tokens == 15);
  CHECK(thrice.load == std::vector<Index>{12, 9, 6, 0});
  CHECK(thrice.max_violation() == Approx(once.max_violation()));
  CHECK(thrice.mean_entropy() == Approx(once.mean_entropy()));
  CHECK(thrice.coactivation(0, 1) == Approx(once.coactivation(0, 1)));
  RoutingCounts cleared = thrice;
  cleared.clear();
  CHECK(cleared.tokens == 0);
  CHECK(cleared.load == std::vector<Index>{0, 0, 0, 0});
  CHECK(cleared.mean_top_gate() == 0);
}

TEST_CASE("cleared counts contain only what is added afterwards") {
  const Pass pass{.shape = {1, 6}, .lengths = lengths};
  RoutingCounts used = counts_of(0, 3), fresh;
  used.clear();
  used.add(plan_of(1), scores(), lse(), pass);
  fresh.add(plan_of(1), scores(), lse(), pass);
  CHECK(used.tokens == fresh.tokens);
  CHECK(used.load == fresh.load);
  CHECK(used.wanted == fresh.wanted);
  CHECK(used.together == fresh.together);
  CHECK(used.score == fresh.score);
  CHECK(used.entropy_sum == fresh.entropy_sum);
  CHECK(used.top_gate_sum == fresh.top_gate_sum);
  CHECK(used.lse2_sum == fresh.lse2_sum);

  const int label[6] = {0, 1, 2, 0, 1, 2}, other[6] = {2, 2, 1, 1, 0, 0};
  ClassCounts classes{.classes = 3}, new_classes{.classes = 3};
  classes.add(plan_of(0), std::span(label));
  classes.clear();
  classes.add(plan_of(1), std::span(other));
  new_classes.add(plan_of(1), std::span(other));
  CHECK(classes.count == new_classes.count);
}

TEST_CASE("counts reject a plan with another number of experts") {
  RoutingCounts counts = counts_of(0);
  RoutingPlan<double> other;
  other.resize(6, 2, 5);
  other.assign(chosen, gate, Index{0});
  CHECK(refusal([&] { counts.add(other, {}, {}, Pass{.shape = {1, 6}}); }).find("4 experts") !=
        std::string::npos);
}

namespace {

// Counts of pairs (label[n], expert[n]), `times` times.
ClassCounts table_of(int classes, int experts, const std::vector<int>& label,
                     const std::vector<int>& expert) {
  RoutingPlan<float> plan;
  plan.resize(std::ssize(expert), 1, experts);
  plan.assign(expert.data(), std::vector<float>(expert.size(), 1).data(), Index{0});
  ClassCounts counts{.classes = classes};
  counts.add(plan, label);
  return counts;
}

}  // namespace

TEST_CASE("a table counts the experts of each class, and skips tokens without a label") {
  const ClassCounts counts = table_of(2, 3, {0, 0, 1, -1, 1, 0}, {2, 0, 1, 1, 1, 2});
  CHECK(counts.count == std::vector<Index>{1, 0, 2, 0, 2, 0});
  CHECK(counts.at(0, 2) == 2);
}

TEST_CASE("independent classes and experts have no mutual information") {
  const ClassCounts counts = table_of(2, 3, {0, 0, 0, 0, 1, 1, 1, 1}, {0, 0, 1, 2, 0, 0, 1, 2});
  CHECK(counts.mutual_information() == Approx(0).margin(1e-12));
  CHECK(counts.explained() == Approx(0).margin(1e-12));
}

TEST_CASE("a bijection of classes and experts has the information ln of their number") {
  const ClassCounts counts = table_of(3, 3, {0, 1, 2, 0, 1, 2}, {2, 0, 1, 2, 0, 1});
  CHECK(counts.mutual_information() == Approx(std::log(3)));
  CHECK(counts.explained() == Approx(1));
}

TEST_CASE(
    "a class with several experts is still determined by them, an expert of several classes only in part") {
  const ClassCounts more = table_of(2, 4, {0, 0, 1, 1}, {0, 3, 1, 2});
  CHECK(more.mutual_information() == Approx(std::log(2)));
  CHECK(more.explained() == Approx(1));
  const ClassCounts fewer = table_of(4, 2, {0, 1, 2, 3}, {0, 0, 1, 1});
  CHECK(fewer.mutual_information() == Approx(std::log(2)));
  CHECK(fewer.explained() == Approx(0.5));
}

TEST_CASE("mutual information of a small table is what the definition gives") {
  // counts 3 1 / 1 3: I = sum p ln (p / (p_c p_e)) = 3/4 ln 3/2 + 1/4 ln 1/2
  const ClassCounts counts = table_of(2, 2, {0, 0, 0, 0, 1, 1, 1, 1}, {0, 0, 0, 1, 0, 1, 1, 1});
  CHECK(counts.mutual_information() == Approx(0.75 * std::log(1.5) + 0.25 * std::log(0.5)));
}

TEST_CASE("a table rejects labels outside its classes, and too few labels") {
  CHECK(refusal([] { table_of(2, 2, {0, 2}, {0, 1}); }).find("label 2") != std::string::npos);
  CHECK(refusal([] { table_of(2, 2, {0}, {0, 1}); }).find("1 labels for 2 tokens") != std::string::npos);
}

TEST_CASE(
    "a label beyond the classes is rejected before anything is counted, and so is a table without classes") {
  const auto plan = plan_of(0);
  ClassCounts counts{.classes = 2};
  const std::vector<int> good(6, 1), bad{1, 1, 1, 1, 1, 2};  // the padding at the end, too
  counts.add(plan, good);
  const auto before = counts.count;
  CHECK(refusal([&] { counts.add(plan, bad); }).find("token 5 has label 2, expected less than 2") !=
        std::string::npos);
  CHECK(counts.count == before);
  for (const int classes : {0, -1}) {
    ClassCounts none{.classes = classes};
    const std::vector<int> unlabelled(6, -1);
    CHECK(refusal([&] { none.add(plan, unlabelled); }).find("expected at least 1") != std::string::npos);
  }
}

TEST_CASE("metrics of an expert or class out of range are rejected") {
  const RoutingCounts counts = counts_of(0);
  for (const int e : {-1, 4}) {
    CHECK_FALSE(refusal([&] { counts.mean_score(e); }).empty());
    CHECK_FALSE(refusal([&] { counts.share(e); }).empty());
    CHECK_FALSE(refusal([&] { counts.coactivation(0, e); }).empty());
    CHECK_FALSE(refusal([&] { counts.coactivation(e, 0); }).empty());
  }
  ClassCounts classes{.classes = 2};
  classes.add(plan_of(0), std::vector<int>(6, 1));
  CHECK(classes.at(1, 3) == 0);
  CHECK_FALSE(refusal([&] { classes.at(2, 0); }).empty());
  CHECK_FALSE(refusal([&] { classes.at(0, -1); }).empty());
}
