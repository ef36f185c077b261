#pragma once
// Retrievers: vectors of texts, normalised to length 1, by which passages are found. HashedNGrams needs no
// training; MeanFeatures is the mean of a trunk's features.
#include <moegpt/model/transformer.hpp>
#include <moegpt/retrieval/passage_store.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// embed writes the vector [dim] of a text.
template <class R>
concept Retriever = requires(R& retriever, std::span<const int> ids, std::span<float> vector) {
  { retriever.dim() } -> std::convertible_to<Index>;
  retriever.embed(ids, vector);
};

namespace retrieval {

// v / |v|; zero stays zero.
inline void normalise(std::span<float> v) {
  double norm = 0;
  for (const float x : v) norm += static_cast<double>(x) * static_cast<double>(x);
  for (float& x : v) x = norm > 0 ? static_cast<float>(static_cast<double>(x) / std::sqrt(norm)) : 0;
}
inline void check_text(std::span<const int> ids, std::span<float> vector, Index dim) {
  check(!ids.empty(), "a retriever got a text without ids, expected at least one");
  check(std::ssize(vector) == dim, "a retriever got room for ", vector.size(), " features, expected ", dim);
}

}  // namespace retrieval

// Counts of n-grams of 1 .. longest ids, each added to one feature with a sign (feature hashing, Weinberger
// et al. 2009). Texts with common n-grams have large inner products.
struct HashedNGrams {
  Index features = 256;
  int longest = 2;

  Index dim() const { return features; }
  void embed(std::span<const int> ids, std::span<float> vector) const {
    check(longest >= 1, "HashedNGrams: longest is ", longest, ", expected at least 1");
    retrieval::check_text(ids, vector, features);
    for (float& x : vector) x = 0;
    for (std::size_t from = 0; from < ids.size(); ++from) {
      std::uint64_t gram = 0;
      for (std::size_t n = 0; n < static_cast<std::size_t>(longest) && from + n < ids.size(); ++n) {
        gram = mix64(gram + static_cast<std::uint64_t>(ids[from + n]) + 1);
        vector[(gram >> 1) % vector.size()] += gram & 1 ? 1.f : -1.f;
      }
    }
    retrieval::normalise(vector);
  }
};
static_assert(Retriever<HashedNGrams>);

// The mean of a trunk's features over the last ids of a text, at most the trunk's context. The trunk must
// outlive the retriever. Vectors are those of its weights when they are computed: a store has to be built
// again after the trunk was trained.
template <class Trunk>
class MeanFeatures {
 public:
  explicit MeanFeatures(const Trunk& trunk, ModelOptions options = {}, Exec exec = {})
      : trunk_(&trunk),
        options_(options),
        work_({1, Trunk::config.context}, exec, {}, Use::inference),
        features_(Trunk::config.context) {}

  Index dim() const { return Trunk::D; }
  void embed(std::span<const int> ids, std::span<float> vector) {
    retrieval::check_text(ids, vector, dim());
    const Index count = std::ssize(ids), most = Trunk::config.context;
    if (count > most) ids = ids.subspan(static_cast<std::size_t>(count - most));
    const Pass given{.shape = {1, std::ssize(ids)}, .options = options_, .partial = true};
    Pass pass = trunk_->prepare(ids, given, work_, {});
    features_.resize(pass);
    work_.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      trunk_->forward(ids, features_, work_.tape, work_.scratch, pass);
    });
    for (Index i = 0; i < dim(); ++i) {
      double sum = 0;
      for (Index n = 0; n < pass.tokens(); ++n) sum += static_cast<double>(features_[n][i]);
      vector[static_cast<std::size_t>(i)] = static_cast<float>(sum / static_cast<double>(pass.tokens()));
    }
    retrieval::normalise(vector);
  }

 private:
  const Trunk* trunk_;
  ModelOptions options_;
  typename Trunk::Workspace work_;
  Tokens<Trunk::D, typename Trunk::Scalar> features_;
};

// Adds a passage under the vector that the retriever gives it, and returns its index.
template <Retriever R>
Index add_passage(PassageStore& store, R& retriever, std::span<const int> ids, int source = 0) {
  std::vector<float> vector(static_cast<std::size_t>(retriever.dim()));
  retriever.embed(ids, vector);
  return store.add(ids, vector, source);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
