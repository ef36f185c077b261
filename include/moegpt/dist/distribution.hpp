#pragma once
// Distribution of training over the ranks of a communicator: data parallelism, with experts replicated or,
// for layers of ExpertParallel, distributed over groups of consecutive ranks.
//   Distribution<MpiCommunicator> ranks(world, world.size());   // experts over all ranks
//   ranks.keep_own_experts(model);                              // and of grad, before Adam is made of it
//   work.ranks = &ranks.of_batch();
//   loss = accumulator.step(model, batches, work, grad, key);   // each rank its part of the batch
//   ranks.reduce(grad);
//   adam.step(model, grad, exec, clip_scale(ranks.global_norm(grad), 1));
//   ranks.gather_weights(model, grad);                          // with OptimizerState::sharded
// Every rank holds the same replicated weights, bit for bit: sums over ranks are in their order.
#include <moegpt/dist/communicator.hpp>
#include <moegpt/dist/expert_parallel.hpp>
#include <moegpt/dist/part_of_batch.hpp>
#include <moegpt/dist/shards.hpp>
#include <moegpt/model/copy_experts.hpp>
#include <moegpt/model/selection_bias.hpp>
#include <moegpt/train/clip.hpp>

#include <numeric>
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

// Where Adam's moments of replicated weights, and of experts that several ranks have, are.
enum class OptimizerState {
  replicated,  // on each of these ranks
  sharded,     // each has its part of them (ZeRO stage 1, Rajbhandari et al. 2020); the results are the same
};

template <Communicator C>
class Distribution {
 public:
  // expert_ranks: number of ranks that share the experts of a layer; 1: every rank has all. Collective, as
  // all members are. std::invalid_argument unless it divides the number of ranks. `world` must outlive this
  // object.
  explicit Distribution(C& world, int expert_ranks = 1, OptimizerState state = OptimizerState::replicated)
      : world_(&world), members_(expert_ranks), state_(state) {
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
  // an optimizer. Of a sharded optimizer state also the moments that other ranks have.
  // std::invalid_argument if experts cannot be shared equally.
  template <class Tree>
  void keep_own_experts(Tree& tree) const {
    if (members_ > 1) {
      if constexpr (requires { typename Tree::Trunk::MoEBlock; }) check_layers_exchange<Tree>();
      for_each_weight_with_owner(tree, [&](int owner, bool distributed, auto& w) {
        if (distributed && owner != ranks_.member) w.release();
      });
    }
    if constexpr (requires { tree.keep_parts(std::span<const Rows>()); })
      if (state_ == OptimizerState::sharded) tree.keep_parts(list_shards(tree.first_moment()));
  }

  // The elements of each weight that this rank updates with a sharded optimizer state, in the order of
  // fields(). Adam<Model>(options, grad, ranks.list_shards(grad)) never holds whole moments.
  template <class Tree>
  std::vector<Rows> list_shards(const Tree& tree) const {
    std::vector<Rows> shards;
    for_each_weight_with_owner(tree, [&](int, bool distributed, const auto& w) {
      shards.push_back(own_shard(w.extent, distributed));
    });
    return shards;
  }

  // grad = sum of the ranks' gradients. Experts that are distributed have the gradient of all tokens of their
  // group already and are summed over groups. An expert is marked as touched if it is on any rank. With a
  // sharded optimizer state, only the sums that this rank's update needs are computed.
  template <class Model>
  void reduce(Model& grad) {
    using T = typename Model::Scalar;
    for_each_set([&](C& ranks, bool distributed) {
      share_marks(ranks, grad, distributed);
      shards_.template sum<T>(ranks, weights_of(grad, grad, distributed),
                              state_ == OptimizerState::replicated);
    });
  }

  // After the step of a sharded optimizer: gets the weights that other ranks have updated. Does nothing for a
  // replicated one.
  template <class Model>
  void gather_weights(Model& model, const Model& grad) {
    using T = typename Model::Scalar;
    if (state_ == OptimizerState::replicated) return;
    for_each_set([&](C& ranks, bool distributed) {
      shards_.template gather<T>(ranks, weights_of(grad, model, distributed));
    });
  }

  // Norm of a reduced gradient, over the experts of all ranks. The same bits on every rank, and for both
  // optimizer states: each rank adds the squares of its part.
  template <class Model>
  double global_norm(const Model& grad, const Exec& exec = {}) {
    using T = const typename Model::Scalar;
    double sum = 0;
    auto add = [&](std::span<const WeightRun<T>> runs) { sum += squared_norm(exec, runs); };
    RunBatches<T, decltype(add)> own(add);
    for (const bool distributed : {false, true})
      weights_of(grad, grad, distributed)([&](T* g, Index size) {
        const Rows shard = own_shard(size, distributed);
        own.add(g + shard.first, shard.count);
      });
    own.flush();
    ranks_.sum(&sum, 1);
    return std::sqrt(sum);
  }

  // Counts of all ranks, for balance_selection.
  template <class Model>
  void sum(ExpertCounts<Model>& counts) {
    for (Buffer<Index>& count : counts.layer)
      if (count.size() > 0) ranks_.sum(count.data(), count.size());
  }

  // Copies the experts of other ranks to rank 0, and all moments and step counts, so that it can write the
  // files of a single process. Those of other ranks are unchanged. Rank 0 needs the memory of the whole model
  // and its moments until it calls keep_own_experts of both; with a sharded optimizer state, the other ranks
  // of its group need that of the moments of their experts for the time of this call.
  template <class Model, class Optimizer>
  void collect_experts(Model& model, Optimizer& optimizer) {
    const bool sharded = state_ == OptimizerState::sharded;
    if (sharded) collect_moments(optimizer);
    if (!group_ || ranks_.rank >= members_) return;
    collect_weights(model);
    collect_weights(optimizer);
    const auto& own = optimizer.steps();
    std::vector<std::int64_t> all(own.size() * static_cast<std::size_t>(members_)),
        steps(own.begin(), own.end());
    group_->gather(own.data(), all.data(), std::ssize(own) * Index{sizeof own[0]});
    if (ranks_.rank > 0) {
      if (sharded) for_each_weight([](auto& moment) { moment.release(); }, optimizer);
      return;
    }
    std::size_t number = 0;
    for_each_weight_with_owner(model, [&](int owner, bool, const auto&) {
      steps[number] = all[static_cast<std::size_t>(owner) * own.size() + number];
      ++number;
    });
    optimizer.set_steps(steps);
  }

  // Throws std::runtime_error, on every rank, unless all ranks have the same replicated weights.
  template <class Model>
  void check_equal(const Model& model) {
    std::uint64_t hash = 14695981039346656037u;
    for_each_of(
        false,
        [&](Kind, const auto& w) {
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
  static int expert_of(std::string_view path) { return detail::parse_expert_path(path).expert; }

  // f(kind, weight, weights...) for the weights of `tree` that are not empty: either distributed experts, or
  // all others.
  template <class F, class Tree, class... Trees>
  void for_each_of(bool distributed, F&& f, Tree& tree, Trees&... trees) const {
    walk::each(
        [&](const walk::Path& path, const auto& attributes, auto& w, auto&... weights) {
          const bool is_distributed = members_ > 1 && expert_of(path.text()) >= 0;
          if (!w.empty() && is_distributed == distributed) f(attributes.kind, w, weights...);
        },
        tree, trees...);
  }
  // For ShardExchange: the weights of `tree` that have a gradient.
  template <class Model, class Tree>
  auto weights_of(const Model& grad, Tree& tree, bool distributed) const {
    return [this, &grad, &tree, distributed](auto&& add) {
      this->for_each_of(
          distributed,
          [&](Kind kind, const auto&, auto& w) {
            if (kind != Kind::buffer) add(w.data(), w.size());
          },
          grad, tree);
    };
  }
  // f(ranks, distributed): the ranks that have the same weights, where there are several.
  template <class F>
  void for_each_set(F&& f) {
    if (world_->size() > 1) f(*world_, false);
    if (replicas_ && replicas_->size() > 1) f(*replicas_, true);
  }
  Rows own_shard(Index size, bool distributed) const {
    const C& ranks = distributed ? *replicas_ : *world_;
    return shard_of(size, ranks.rank(), ranks.size());
  }

  // f(owner, distributed, weight): owner is the member that has the weight; 0 if all have it.
  template <class Tree, class F>
  void for_each_weight_with_owner(Tree& tree, F&& f) const {
    int experts = 0;
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto&) { experts = std::max(experts, expert_of(path) + 1); },
        std::as_const(tree));
    check(experts % members_ == 0, "Distribution: ", members_, " ranks cannot share ", experts,
          " experts equally: their number must divide that of the experts");
    for_each_named_weight(
        [&](const std::string& path, Kind, auto& w) {
          const int e = members_ > 1 ? expert_of(path) : -1;
          f(e < 0 ? 0 : e / (experts / members_), e >= 0, w);
        },
        tree);
  }

  // To rank 0 of `ranks`: what they have, in their order. Returns the number of elements, on every rank.
  template <class T>
  Index collect(C& ranks, const T* own, Index count, Buffer<T>& all) {
    Buffer<Index> send(ranks.size()), receive(ranks.size());
    ranks.gather(&count, receive.data(), sizeof count);
    const Index total = std::accumulate(receive.begin(), receive.end(), Index{0});
    if (ranks.rank() > 0) receive.fill(0);
    all.resize(ranks.rank() > 0 ? 0 : total);
    send[0] = count;
    ranks.exchange(own, send.data(), all.data(), receive.data(), sizeof(T));
    return total;
  }
  // Experts of `tree` to member 0.
  template <class Tree>
  void collect_weights(Tree& tree) {
    Buffer<walk::Scalar<Tree>> all;
    for_each_weight_with_owner(tree, [&](int owner, bool, auto& w) {
      if (owner == 0) return;
      collect(*group_, w.data(), ranks_.member == owner ? w.size() : 0, all);
      if (all.size() == 0) return;  // frozen weights have no moments
      w.allocate();
      std::copy_n(all.data(), all.size(), w.data());
    });
  }
  // Parts of moments to the first rank of those that share them, as whole moments.
  template <class Optimizer>
  void collect_moments(Optimizer& optimizer) {
    Buffer<walk::Scalar<Optimizer>> all;
    std::size_t number = 0;
    for_each_weight_with_owner(optimizer, [&](int, bool distributed, auto& moment) {
      const auto& part = optimizer.part(number++);
      const Index total = collect(distributed ? *replicas_ : *world_, part.data(), part.size(), all);
      check(total == 0 || total == moment.extent, "Distribution: ranks have ", total, " elements of ",
            moment.extent, " of a moment: call keep_own_experts(optimizer) on every rank");
      if (all.size() == 0) return;
      moment.allocate();
      std::copy_n(all.data(), all.size(), moment.data());
    });
  }

  // Marks an expert as touched if it is on any rank.
  template <class Model>
  void share_marks(C& ranks, Model& grad, bool distributed) {
    marks_.clear();
    const auto for_each_mark = [&](auto&& f) {
      for_each_of(
          distributed,
          [&](Kind kind, auto& g) {
            if (kind == Kind::sparse) f(g.touched);
          },
          grad);
    };
    for_each_mark([&](bool& touched) { marks_.push_back(touched); });
    const std::size_t count = marks_.size();
    if (count == 0) return;
    marks_.resize(count * static_cast<std::size_t>(1 + ranks.size()));
    ranks.gather(marks_.data(), marks_.data() + count, static_cast<Index>(count));
    std::size_t number = 0;
    for_each_mark([&](bool& touched) {
      touched = false;
      for (std::size_t at = count + number++; at < marks_.size(); at += count) touched |= marks_[at] != 0;
    });
  }

  C* world_;
  int members_;
  OptimizerState state_;
  std::optional<C> group_, replicas_;  // ranks that share experts; ranks that have the same experts
  Ranks ranks_;
  ShardExchange shards_;
  std::vector<unsigned char> marks_;  // [1 + ranks, experts' weights] of this rank, of all
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
