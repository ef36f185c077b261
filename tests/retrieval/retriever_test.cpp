#include <moegpt/retrieval/retriever.hpp>

#include "support.hpp"

namespace {

constexpr Config config{
    .vocab = 9, .context = 4, .dim = 4, .layers = 1, .heads = 2, .hidden = 4, .mask = Mask::full};
using SmallEncoder = Transformer<config, TopKRouter<3, 2>, float>;

template <class R>
std::vector<float> embedded(R& retriever, const std::vector<int>& ids) {
  std::vector<float> v(static_cast<std::size_t>(retriever.dim()));
  retriever.embed(ids, v);
  return v;
}
double product(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

}  // namespace

TEST_CASE("texts with common n-grams are nearer than others, and every vector has length 1") {
  HashedNGrams retriever{.features = 512};
  const auto text = embedded(retriever, {5, 6, 7, 8});
  CHECK(product(text, text) == Approx(1));
  CHECK(product(text, embedded(retriever, {6, 7})) > product(text, embedded(retriever, {7, 6})));
  CHECK(product(text, embedded(retriever, {7, 6})) > product(text, embedded(retriever, {1, 2})));
  CHECK_THROWS_AS(embedded(retriever, {}), std::invalid_argument);
}

TEST_CASE("MeanFeatures is the mean of the trunk's features of the last ids, normalised") {
  const auto encoder = random_model<SmallEncoder>(3);
  MeanFeatures<SmallEncoder> retriever(*encoder);
  const std::vector<int> ids{1, 2, 3};
  SmallEncoder::Workspace work({1, 3});
  Tokens<4, float> features(3);
  encoder->forward(ids, features, work.tape, work.scratch,
                   encoder->prepare(ids, {.shape = {1, 3}}, work, {}));
  std::vector<float> mean(4);
  for (Index n = 0; n < 3; ++n)
    for (std::size_t i = 0; i < 4; ++i) mean[i] += features[n][i];
  const auto found = embedded(retriever, ids);
  CHECK(product(found, found) == Approx(1));
  CHECK(product(found, mean) == Approx(std::sqrt(product(mean, mean))));
  CHECK(embedded(retriever, {7, 8, 1, 2, 3, 4}) == embedded(retriever, {1, 2, 3, 4}));
}
