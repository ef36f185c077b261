#pragma once
// Distribution of training over the ranks of a communicator: data parallelism, with experts replicated or,
// for layers of ExpertParallel, distributed over groups of consecutive ranks.
//   Distribution<MpiCommunicator> ranks(world, world.size());   // experts over all ranks
//   ranks.keep_own_experts(model);                              // and of grad, before Adam is made of it
//   work.ranks = &ranks.of_batch();
//   loss = accumulator.step(model, batches, work, grad, key);   // each rank its part of the batch
//   ranks.reduce(grad);
//   adam.step(model, grad, exec, clip_scale(ranks.global_norm(grad), 1));
// Every rank holds the same replicated weights, bit for bit: sums over ranks are in their order.
#include <moegpt/dist/communicator.hpp>
#include <moegpt/dist/expert_parallel.hpp>
#include <moegpt/model/batch.hpp>
#include <moegpt/model/copy_experts.hpp>
#include <moegpt/model/selection_bias.hpp>
#include <moegpt/train/clip.hpp>

#include <optional>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {

// Whether an MoE layer, or the one inside it, exchanges tokens with other ranks.
template <class Mixture>
constexpr bool exchanges_experts() {
  if constexpr (requires { Mixture::exchanges_experts; })
    return true;
  else if constexpr (requires(Mixture m) { m.routed; })
    return exchanges_experts<decltype(Mixture::routed)>();
  else
    return false;
}

}  // namespace detail

// The sequences of a batch that rank `rank` of `ranks` has. std::invalid_argument unless each has equally
// many.
inline Batch part_of(const Batch& whole, int rank, int ranks) {
  check(ranks >= 1 && rank >= 0 && rank < ranks, "part_of: there is no rank ", rank, " of ", ranks);
  check(whole.shape.batch % ranks == 0, "part_of: ", ranks, " ranks cannot share ", whole.shape.batch,
        " sequences equally: make the batch a multiple of their number");
  const Index batch = whole.shape.batch / ranks;
  Batch part{{batch, whole.shape.length}};
  const auto take = [&](const auto& from, auto& to) {  // [tokens] or [batch]
    const Index size = std::ssize(from) / ranks;
    check(size * ranks == std::ssize(from), "part_of: a list of the batch has ", from.size(), " entries for ",
          whole.shape.batch, " sequences");
    to.assign(from.begin() + rank * size, from.begin() + (rank + 1) * size);
  };
  take(whole.inputs, part.inputs), take(whole.targets, part.targets), take(whole.starts, part.starts);
  take(whole.lengths, part.lengths), take(whole.documents, part.documents);
  return part;
}

template <Communicator C>
class Distribution {
 public:
  static constexpr Index bucket_bytes = Index{1} << 20;  // of a reduction, at most

  // expert_ranks: number of ranks that share the experts of a layer; 1: every rank has all. Collective, as
  // all members are. std::invalid_argument unless it divides the number of ranks. `world` must outlive this
  // object.
  explicit Distribution(C& world, int expert_ranks = 1) : world_(&world), members_(expert_ranks) {
    check(members_ >= 1 && world.size() % members_ == 0, "Distribution: ", members_,
          " ranks are to share the experts, but there are ", world.size(),
          ": their number must be a multiple of it");
    const int member = world.rank() % members_;
    if (members_ > 1) {
      group_.emplace(world.split(world.rank() / members_));
      replicas_.emplace(world.split(member));
    }
    ranks_.rank = world.rank(), ranks_.count = world.size();
    ranks_.member = member, ranks_.members = members_;
    ranks_.object = this;
    ranks_.gather = [](void* self, const void* mine, void* all, Index bytes) {
      static_cast<Distribution*>(self)->world_->gather(mine, all, bytes);
    };
    ranks_.exchange = [](void* self, const void* send, const Index* send_count, void* receive,
                         const Index* receive_count, Index row_bytes) {
      static_cast<Distribution*>(self)->group().exchange(send, send_count, receive, receive_count, row_bytes);
    };
  }
  Distribution(const Distribution&) = delete;
  Distribution& operator=(const Distribution&) = delete;

  // For Workspace::ranks. Forward and backward of such a workspace are collective.
  const Ranks& of_batch() const { return ranks_; }
  C& world() const { return *world_; }
  // The ranks among which the experts are distributed.
  C& group() { return group_ ? *group_ : *world_; }

  // Whether expert `e` of `experts` is on this rank.
  bool holds(int e, int experts) const { return e / (experts / members_) == ranks_.member; }

  // Releases the experts that other ranks have, of a model or of another tree with its paths: a gradient, or
  // the moments of Adam. std::invalid_argument if experts cannot be shared equally.
  template <class Tree>
  void keep_own_experts(Tree& tree) const {
    if (members_ == 1) return;
    if constexpr (requires { typename Tree::Trunk::MoEBlock; }) check_layers_exchange<Tree>();
    int experts = 0;
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto&) { experts = std::max(experts, expert_of(path) + 1); },
        std::as_const(tree));
    check(experts % members_ == 0, "Distribution: ", members_, " ranks cannot share ", experts,
          " experts equally: their number must divide that of the experts");
    for_each_named_weight(
        [&](const std::string& path, Kind, auto& w) {
          if (const int e = expert_of(path); e >= 0 && !holds(e, experts)) w.release();
        },
        tree);
  }

  // grad = sum of the ranks' gradients. Experts that are distributed have the gradient of all tokens of their
  // group already and are summed over groups. An expert is marked as touched if it is on any rank.
  template <class Model>
  void reduce(Model& grad) {
    reduce_over(*world_, grad, false);
    if (replicas_) reduce_over(*replicas_, grad, true);
  }

  // Norm of a reduced gradient, over the experts of all ranks. The same bits on every rank.
  template <class Model>
  double global_norm(const Model& grad, const Exec& exec = {}) {
    double squares[2] = {0, 0};  // of replicated and of distributed weights
    for (const bool distributed : {false, true}) {
      using T = const typename Model::Scalar;
      std::vector<bool> chosen = list_distributed(grad);
      std::size_t number = 0;
      for_each_batch_of_runs<T>(
          grad,
          [&](Kind kind, const auto&) { return chosen[number++] == distributed && kind != Kind::buffer; },
          [&](std::span<const WeightRun<T>> runs) { squares[distributed] += squared_norm(exec, runs); });
    }
    if (group_) sum_over(*group_, &squares[1], 1);
    return std::sqrt(squares[0] + squares[1]);
  }

  // Counts of all ranks, for balance_selection.
  template <class Model>
  void sum(ExpertCounts<Model>& counts) {
    for (Buffer<Index>& count : counts.layer)
      if (count.size() > 0) ranks_.sum(count.data(), count.size());
  }

  // Copies the experts of other ranks to rank 0, with their moments and step counts, so that it can write the
  // files of a single process. Those of other ranks are unchanged. Rank 0 needs the memory of the whole model
  // until it calls keep_own_experts of both.
  template <class Model, class Optimizer>
  void collect_experts(Model& model, Optimizer& optimizer) {
    if (!group_ || ranks_.rank >= members_) return;
    collect_weights(model);
    collect_weights(optimizer);
    const auto& own = optimizer.steps();
    std::vector<std::int64_t> all(own.size() * static_cast<std::size_t>(members_)),
        steps(own.begin(), own.end());
    group_->gather(own.data(), all.data(), std::ssize(own) * Index{sizeof own[0]});
    if (ranks_.rank > 0) return;
    std::size_t number = 0;
    for_each_weight_with_owner(model, [&](int owner, const auto&) {
      steps[number] = all[static_cast<std::size_t>(owner) * own.size() + number];
      ++number;
    });
    optimizer.set_steps(steps);
  }

  // Throws std::runtime_error, on every rank, unless all ranks have the same replicated weights.
  template <class Model>
  void check_equal(const Model& model) {
    const std::vector<bool> distributed = list_distributed(model);
    std::size_t number = 0;
    std::uint64_t hash = 14695981039346656037u;
    for_each_weight(
        [&](const auto& w) {
          if (distributed[number++] || w.empty()) return;
          const auto* bytes = reinterpret_cast<const unsigned char*>(w.data());
          for (Index i = 0; i < w.size() * Index{sizeof *w.data()}; ++i)
            hash = (hash ^ bytes[i]) * 1099511628211u;
        },
        model);
    if (!ranks_.agree(static_cast<Index>(hash)))
      throw std::runtime_error(
          "moegpt: ranks have different weights: start all of them from one seed or one file");
  }

 private:
  template <class Model>
  static void check_layers_exchange() {
    static_assert(
        detail::exchanges_experts<decltype(std::declval<typename Model::Trunk::MoEBlock>().mixture)>(),
        "Distribution: layers of this model cannot exchange tokens: put ExpertParallel around its "
        "router, or let every rank have all experts");
  }
  static int expert_of(const std::string& path) { return detail::parse_expert_path(path).expert; }

  // In the order of fields(): whether a weight is that of a distributed expert.
  template <class Tree>
  std::vector<bool> list_distributed(const Tree& tree) const {
    std::vector<bool> list;
    for_each_named_weight([&](const std::string& path, Kind,
                              const auto&) { list.push_back(members_ > 1 && expert_of(path) >= 0); },
                          tree);
    return list;
  }

  // f(owner, weight): owner is the member that has the weight; 0 if all have it.
  template <class Tree, class F>
  void for_each_weight_with_owner(Tree& tree, F&& f) const {
    int experts = 0;
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto&) { experts = std::max(experts, expert_of(path) + 1); },
        std::as_const(tree));
    for_each_named_weight(
        [&](const std::string& path, Kind, auto& w) {
          const int e = expert_of(path);
          f(e < 0 ? 0 : e / (experts / members_), w);
        },
        tree);
  }
  // Experts of `tree` to member 0.
  template <class Tree>
  void collect_weights(Tree& tree) {
    using T = walk::Scalar<Tree>;
    std::vector<Index> send(static_cast<std::size_t>(members_)), receive(send.size());
    for_each_weight_with_owner(tree, [&](int owner, auto& w) {
      if (owner == 0) return;
      const Index held = ranks_.member == owner ? w.size() : 0;  // frozen weights have no moments
      std::vector<Index> sizes(send.size());
      group_->gather(&held, sizes.data(), sizeof held);
      const Index size = sizes[static_cast<std::size_t>(owner)];
      if (size > 0 && ranks_.member == 0) w.allocate();
      std::fill(send.begin(), send.end(), 0), std::fill(receive.begin(), receive.end(), 0);
      send[0] = held;
      if (ranks_.member == 0) receive[static_cast<std::size_t>(owner)] = size;
      const Buffer<T> none;
      group_->exchange(held > 0 ? w.data() : none.data(), send.data(), w.data(), receive.data(), sizeof(T));
    });
  }

  template <class T>
  void sum_over(C& ranks, T* values, Index n) {
    Buffer<T> all(ranks.size() * n);
    ranks.gather(values, all.data(), n * Index{sizeof(T)});
    sum_parts(all.data(), ranks.size(), n, values);
  }

  // Sums over `ranks`. Gradients are concatenated and cut in buckets, and each bucket in one slice per rank,
  // which sums it in the order of ranks.
  template <class Model>
  void reduce_over(C& ranks, Model& grad, bool distributed) {
    using T = typename Model::Scalar;
    const std::vector<bool> list = list_distributed(grad);
    const int P = ranks.size();
    if (P == 1) return;
    std::vector<unsigned char> touched;
    std::size_t number = 0;
    for_each_weight_of_kind(
        [&](Kind kind, const auto& g) {
          if (list[number++] == distributed && kind == Kind::sparse && !g.empty())
            touched.push_back(g.touched);
        },
        grad);
    const std::size_t marks = touched.size();
    if (marks > 0) {
      std::vector<unsigned char> all(marks * static_cast<std::size_t>(P));
      ranks.gather(touched.data(), all.data(), static_cast<Index>(marks));
      for (std::size_t i = 0; i < all.size(); ++i) touched[i % marks] |= all[i];
    }

    const Index most = std::max<Index>(P, bucket_bytes / Index{sizeof(T)});
    bucket_.resize(most * Index{sizeof(T)});
    parts_.resize((most + P) * Index{sizeof(T)});
    sums_.resize((most + P) * Index{sizeof(T)});
    T* const bucket = reinterpret_cast<T*>(bucket_.data());
    T* const parts = reinterpret_cast<T*>(parts_.data());
    T* const sums = reinterpret_cast<T*>(sums_.data());
    struct Piece {
      T* g;
      Index count;
    };
    std::vector<Piece> pieces;
    std::vector<Index> send(static_cast<std::size_t>(P)), receive(send.size());
    Index filled = 0;
    const auto flush = [&] {
      if (filled == 0) return;
      const Index slice = (filled + P - 1) / P;
      const auto size_of = [&](int r) { return std::clamp<Index>(filled - r * slice, 0, slice); };
      const Index own = size_of(ranks.rank());
      for (int r = 0; r < P; ++r) send[static_cast<std::size_t>(r)] = size_of(r);
      std::fill(receive.begin(), receive.end(), own);
      ranks.exchange(bucket, send.data(), parts, receive.data(), sizeof(T));
      sum_parts(parts, P, own, bucket);
      ranks.gather(bucket, sums, slice * Index{sizeof(T)});
      Index at = 0;
      for (const Piece& piece : pieces) {
        std::copy_n(sums + at, piece.count, piece.g);
        at += piece.count;
      }
      pieces.clear();
      filled = 0;
    };
    number = 0;
    std::size_t mark = 0;
    for_each_weight_of_kind(
        [&](Kind kind, auto& g) {
          if (list[number++] != distributed || kind == Kind::buffer || g.empty()) return;
          if (kind == Kind::sparse) g.touched = touched[mark++] != 0;
          for (Index first = 0; first < g.size();) {
            const Index count = std::min(g.size() - first, most - filled);
            std::copy_n(g.data() + first, count, bucket + filled);
            pieces.push_back({g.data() + first, count});
            filled += count, first += count;
            if (filled == most) flush();
          }
        },
        grad);
    flush();
  }

  C* world_;
  int members_;
  std::optional<C> group_, replicas_;  // ranks that share experts; ranks that have the same experts
  Ranks ranks_;
  Buffer<unsigned char> bucket_, parts_, sums_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
