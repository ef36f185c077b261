#pragma once
// Store of passages: the token ids of each, a vector, and the label of its source. The nearest passages of a
// query are those with the largest inner products, exactly, as in Guu et al. 2020 (REALM).
#include <moegpt/core/exec.hpp>
#include <moegpt/kernels/gemm.hpp>
#include <moegpt/kernels/top_k.hpp>

#include <cmath>
#include <limits>
#include <span>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Passages of each query in descending order of score; equal scores in order of index. Reused by later
// searches, so that they do not allocate.
struct Neighbours {
  static constexpr Index none = -1;
  std::vector<Index> index;  // [queries, k] in the store; none: fewer passages are available
  std::vector<float> score;  // [queries, k] inner products; 0 where there is none

  std::vector<float> scores_of_block;  // scratch: [queries of a block, passages]
  std::vector<int> best;               // scratch: [queries of a block, k]
};

// Default argument of nearest.
struct ExcludeNone {
  bool operator()(Index, Index) const { return false; }
};

class PassageStore {
 public:
  // dim: features of the vectors. std::invalid_argument unless it is at least 1.
  explicit PassageStore(Index dim) : dim_(dim) {
    check(dim >= 1, "PassageStore: vectors of ", dim, " features, expected at least 1");
  }

  Index dim() const { return dim_; }
  Index size() const { return std::ssize(sources_); }
  std::span<const int> text(Index i) const {
    check_index(i);
    const Index begin = offsets_[place(i)];
    return {ids_.data() + begin, place(offsets_[place(i + 1)] - begin)};
  }
  std::span<const float> vector(Index i) const {
    check_index(i);
    return {vectors_.data() + i * dim_, place(dim_)};
  }
  int source(Index i) const {
    check_index(i);
    return sources_[place(i)];
  }
  // All of them, in order: ids of all passages; [size + 1] where each begins; [size] labels; [size, dim].
  const std::vector<int>& ids() const { return ids_; }
  const std::vector<Index>& offsets() const { return offsets_; }
  const std::vector<int>& sources() const { return sources_; }
  const std::vector<float>& vectors() const { return vectors_; }

  // Adds a passage and returns its index. std::invalid_argument for no ids, a negative id, a vector of
  // another length or one whose squared norm is not finite.
  Index add(std::span<const int> ids, std::span<const float> vector, int source = 0) {
    check(!ids.empty(), "PassageStore: a passage without ids, expected at least one");
    for (std::size_t n = 0; n < ids.size(); ++n)
      check(ids[n] >= 0, "PassageStore: id ", n, " of a passage is ", ids[n], ", expected 0 or more");
    check_vector(vector, "the vector of a passage");
    check(size() < std::numeric_limits<int>::max(), "PassageStore: it already has ", size(), " passages");
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    offsets_.push_back(std::ssize(ids_));
    vectors_.insert(vectors_.end(), vector.begin(), vector.end());
    sources_.push_back(source);
    return size() - 1;
  }

  // The k nearest passages of each query, queries [count, dim] row-major. excluded(query, passage): whether a
  // passage may not be found, such as one of the query's own document. std::invalid_argument for k < 1 or
  // queries of another length or with a squared norm that is not finite.
  template <class Excluded = ExcludeNone>
  void nearest(std::span<const float> queries, int k, Neighbours& found, const Exec& exec = {},
               const Excluded& excluded = {}) const {
    check(k >= 1, "PassageStore::nearest: k is ", k, ", expected at least 1");
    check(std::ssize(queries) % dim_ == 0, "PassageStore::nearest: ", queries.size(),
          " numbers as queries, expected a multiple of ", dim_);
    const Index count = std::ssize(queries) / dim_, n = size();
    for (Index q = 0; q < count; ++q) check_vector(queries.subspan(place(q * dim_), place(dim_)), "a query");
    found.index.assign(place(count * k), Neighbours::none);
    found.score.assign(place(count * k), 0);
    const int most = static_cast<int>(n < k ? n : k);
    if (most == 0) return;
    constexpr Index block = 64;  // queries; does not affect results
    found.scores_of_block.resize(place((count < block ? count : block) * n));
    found.best.resize(place((count < block ? count : block) * most));
    for (Index first = 0; first < count; first += block) {
      const Index rows = count - first < block ? count - first : block;
      const MatrixView<float> scores{found.scores_of_block.data(), rows, n, n};
      const MatrixView<const float> q{queries.data() + first * dim_, rows, dim_, dim_},
          v{vectors_.data(), n, dim_, dim_};
      kernels::gemm<float>(exec, q, kernels::transposed<float>(v), scores);
      exec.parallel_for(rows, [&](Index r) {
        float* const row = scores[r];
        int* const best = found.best.data() + r * most;
        for (Index i = 0; i < n; ++i)
          if (excluded(first + r, i)) row[i] = -std::numeric_limits<float>::infinity();
        kernels::top_k<float>(row, static_cast<int>(n), most, best);
        for (int j = 0; j < most && std::isfinite(row[best[j]]); ++j) {
          found.index[place((first + r) * k + j)] = best[j];
          found.score[place((first + r) * k + j)] = row[best[j]];
        }
      });
    }
  }

 private:
  static std::size_t place(Index i) { return static_cast<std::size_t>(i); }
  void check_index(Index i) const {
    check(i >= 0 && i < size(), "PassageStore: passage ", i, ", expected 0 .. ", size() - 1);
  }
  // A finite squared norm of both vectors bounds their inner product.
  void check_vector(std::span<const float> vector, const char* what) const {
    check(std::ssize(vector) == dim_, "PassageStore: ", what, " has ", vector.size(), " features, expected ",
          dim_);
    float norm = 0;
    for (const float x : vector) norm += x * x;
    check(std::isfinite(norm), "PassageStore: the squared norm of ", what, " is ", norm,
          ", expected a finite number: normalise the vectors");
  }

  Index dim_;
  std::vector<int> ids_;
  std::vector<Index> offsets_{0};
  std::vector<int> sources_;
  std::vector<float> vectors_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
