#pragma once
// Shards: every weight is partitioned over ranks. Reduce-scatter and all-gather of shards, for many weights
// in few messages, in fixed memory. Sums are in the order of ranks.
#include <moegpt/core/runs.hpp>
#include <moegpt/dist/communicator.hpp>
#include <moegpt/routing/ranks.hpp>

#include <array>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The elements that rank `rank` of `ranks` has of a weight with `size` elements.
inline Rows shard_of(Index size, int rank, int ranks) {
  const Index first = size * rank / ranks;
  return {first, size * (rank + 1) / ranks - first};
}

// Weights are the arguments of `visit`: it calls add(data, size) for each, with the same sizes on every rank.
// A message has the shards of many weights, each padded to ceil(size / ranks) elements.
class ShardExchange {
 public:
  static constexpr Index bucket_bytes = Index{1} << 20;  // of all ranks' shards in a message, at most

  // This rank's shards become sums over ranks; with `all`, every rank gets all sums.
  template <class T, Communicator C, class Visit>
  void sum(C& ranks, Visit&& visit, bool all) {
    for_each_bucket<T>(ranks.size(), visit, [&](const Bucket<T>& bucket) {
      for (int r = 0; r < ranks.size(); ++r)
        bucket.for_each_shard(r, ranks.size(),
                              [&, row = rows_of<T>() + r * bucket.width](const T* g, Index at, Index n) {
                                std::copy_n(g, n, row + at);
                              });
      counts_.resize(ranks.size());
      counts_.fill(bucket.width);
      ranks.exchange(rows_.data(), counts_.data(), parts_.data(), counts_.data(), sizeof(T));
      T* const own = rows_of<T>();
      sum_parts(reinterpret_cast<const T*>(parts_.data()), ranks.size(), bucket.width, own);
      bucket.for_each_shard(ranks.rank(), ranks.size(),
                            [&](T* g, Index at, Index n) { std::copy_n(own + at, n, g); });
      if (all) gather_bucket(ranks, bucket);
    });
  }
  // Every rank gets all shards.
  template <class T, Communicator C, class Visit>
  void gather(C& ranks, Visit&& visit) {
    for_each_bucket<T>(ranks.size(), visit, [&](const Bucket<T>& bucket) { gather_bucket(ranks, bucket); });
  }

 private:
  // Elements first .. first + count - 1 of each rank's shard of a weight.
  template <class T>
  struct Piece {
    T* weight;
    Index size, first, count;
  };
  template <class T>
  struct Bucket {
    std::array<Piece<T>, 1024> pieces;
    std::size_t used = 0;
    Index width = 0;  // elements of a rank

    // f(elements, at, n): n elements of rank r's shards, which are at `at` in its row of the message.
    template <class F>
    void for_each_shard(int r, int ranks, F&& f) const {
      Index at = 0;
      for (std::size_t i = 0; i < used; ++i) {
        const Piece<T>& piece = pieces[i];
        const Rows shard = shard_of(piece.size, r, ranks);
        f(piece.weight + shard.first + piece.first, at,
          std::clamp<Index>(shard.count - piece.first, 0, piece.count));
        at += piece.count;
      }
    }
  };

  template <class T>
  T* rows_of() {
    return reinterpret_cast<T*>(rows_.data());
  }
  template <class T, class Visit, class F>
  void for_each_bucket(int ranks, Visit&& visit, F&& f) {
    const Index most = std::max<Index>(1, bucket_bytes / (ranks * Index{sizeof(T)}));
    Bucket<T> bucket;
    const auto flush = [&] {
      if (bucket.used == 0) return;
      for (Buffer<unsigned char>* rows : {&rows_, &parts_})
        rows->resize(ranks * bucket.width * Index{sizeof(T)});
      f(bucket);
      bucket.used = 0, bucket.width = 0;
    };
    visit([&](T* weight, Index size) {
      const Index longest = (size + ranks - 1) / ranks;
      for (Index first = 0; first < longest;) {
        const Index count = std::min(longest - first, most - bucket.width);
        bucket.pieces[bucket.used++] = {weight, size, first, count};
        bucket.width += count, first += count;
        if (bucket.width == most || bucket.used == bucket.pieces.size()) flush();
      }
    });
    flush();
  }
  template <Communicator C, class T>
  void gather_bucket(C& ranks, const Bucket<T>& bucket) {
    T* const own = rows_of<T>();
    bucket.for_each_shard(ranks.rank(), ranks.size(),
                          [&](const T* w, Index at, Index n) { std::copy_n(w, n, own + at); });
    ranks.gather(own, parts_.data(), bucket.width * Index{sizeof(T)});
    for (int r = 0; r < ranks.size(); ++r)
      bucket.for_each_shard(r, ranks.size(),
                            [&, row = reinterpret_cast<const T*>(parts_.data()) + r * bucket.width](
                                T* w, Index at, Index n) { std::copy_n(row + at, n, w); });
  }

  Buffer<unsigned char> rows_, parts_;  // [ranks, width] sent and received
  Buffer<Index> counts_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
