#pragma once
// The ranks of a job under MPI, for `train`: their options, agreement, messages and watchdog.
#include <moegpt/dist/mpi.hpp>
#include <moegpt/run/records.hpp>

#include "options.hpp"
#include "watchdog.hpp"

namespace training {

// The type of a model whose layers can exchange tokens. Others have all experts on every rank.
template <class M>
struct Exchanging {
  using Type = M;
};
template <Config C, Router Recipe, class N>
  requires(!requires { typename Recipe::template Mixture<Recipe, Expert<4, 4>>; })
struct Exchanging<GPT<C, Recipe, N>> {
  using Type = GPT<C, ExpertParallel<Recipe>, N>;
};

class World {
 public:
  template <class M>
  using Model = typename Exchanging<M>::Type;

  template <class F>
  static int main(int argc, char** argv, F&& f) {
    const auto report = [](int rank, const char* why) {
      std::fprintf(stderr, "train: rank %d: %s\n", rank, why);
    };
    return run_with_mpi(
        argc, argv,
        [&](MpiCommunicator& communicator) {
          World world(communicator);
          return f(world);
        },
        report);
  }
  void declare(CLI::App& app) {
    app.add_option(
           "--expert-ranks", expert_ranks_,
           "So many ranks share the experts of a layer; 1: each has all; 0: all ranks share them if their "
           "number divides that of the experts")
        ->check(options::whole(0, 1000000))
        ->group("Ranks")
        ->capture_default_str();
    app.add_option("--watchdog", watchdog_seconds_,
                   "Ends the job if a rank makes no progress for so many seconds; 0: never. More than a "
                   "checkpoint takes")
        ->check(options::real(0, 1e6))
        ->group("Ranks")
        ->capture_default_str();
  }

  // As options::run. An invalid command line, and --help, are told by rank 0 alone; an error on any rank ends
  // the job.
  template <class F>
  int run(CLI::App& app, int argc, char** argv, F&& f) {
    constexpr int started = -1;
    if (!is_first()) {
      silence_output();
      if (const int status = of_first(started); status != started) return status;
    }
    bool parsed = false;
    const int status = options::run(app, argc, argv, [&] {
      parsed = true;
      if (is_first()) of_first(started);
      return or_abort([&] {
        watchdog_.start(watchdog_seconds_, rank());
        return largest(f());
      });
    });
    if (!parsed && is_first()) of_first(status);
    return status;
  }

  int rank() const { return communicator_->rank(); }
  int size() const { return communicator_->size(); }
  bool is_first() const { return rank() == 0; }
  int of_first(int value) { return gathered(value)[0]; }
  std::string of_first(std::string text) { return first_found(is_first() ? std::move(text) : ""); }
  std::string first_found(std::string text) {
    const std::vector<std::size_t> sizes = gathered(text.size());
    const std::size_t most = *std::max_element(sizes.begin(), sizes.end());
    text.resize(most);
    std::string all(most * sizes.size(), '\0');
    communicator_->gather(text.data(), all.data(), static_cast<Index>(most));
    for (std::size_t r = 0; r < sizes.size(); ++r)
      if (sizes[r] > 0) return all.substr(r * most, sizes[r]);
    return {};
  }
  int largest(int value) {
    const std::vector<int> all = gathered(value);
    return *std::max_element(all.begin(), all.end());
  }
  void sum(double* values, Index n) const { ranks_->of_batch().sum(values, n); }
  // std::runtime_error, on all ranks, unless all have this text.
  void check_equal(const std::string& text, const char* what) {
    const std::vector<std::size_t> all = gathered(std::hash<std::string>{}(text));
    for (int r = 1; r < size(); ++r)
      if (all[static_cast<std::size_t>(r)] != all[0])
        throw std::runtime_error("rank " + std::to_string(r) + " has " + what +
                                 " than rank 0: start all ranks with the same options, and the same files");
  }
  void progress(const char* phase) { watchdog_.progress(phase); }

  // Begins to share batches and experts. The result is for workspaces.
  template <class M>
  const Ranks* share() {
    int members = expert_ranks_;
    if constexpr (exchanges<M>) {
      if (members == 0 && M::RouterRecipe::experts % size() == 0) members = size();
    }
    ranks_.emplace(*communicator_, std::max(members, 1));
    return &ranks_->of_batch();
  }
  // std::invalid_argument unless ranks can share such a batch equally.
  Shape part(Shape whole) const {
    check(whole.batch % size() == 0, "--batch is ", whole.batch, ", which ", size(),
          " ranks cannot share equally: make it a multiple of ", size(),
          ", or start another number of ranks");
    return {whole.batch / size(), whole.length};
  }
  // A batch that cannot be shared equally is filled up with sequences without targets.
  const Batch& part(const Batch& whole) {
    Batch filled = whole;
    while (filled.shape.batch % size() != 0) add_empty_sequence(filled);
    return part_ = part_of(filled, rank(), size());
  }
  std::span<const Batch> parts(std::span<const Batch> whole) {
    parts_.clear();
    for (const Batch& batch : whole) parts_.push_back(part_of(batch, rank(), size()));
    return parts_;
  }

  template <class Tree>
  void keep_own_experts(Tree& tree) const {
    ranks_->keep_own_experts(tree);
  }
  template <class M>
  void reduce(M& grad) {
    ranks_->reduce(grad);
  }
  // Not finite, on all ranks, if a square of one is not.
  template <class M>
  double global_norm(const M& tree, const Exec& exec) {
    return ranks_->global_norm(tree, exec);
  }
  // Collective: f() on rank 0, which has all experts meanwhile.
  template <class M, class Optimizer, class F>
  void with_all_experts(M& model, Optimizer& optimizer, F&& f) {
    ranks_->collect_experts(model, optimizer);
    if (is_first()) f();
    ranks_->keep_own_experts(model);
    ranks_->keep_own_experts(optimizer);
  }

  void begin_step() {
    progress("a training step");
    before_ = communicator_->traffic();
  }
  // Completes the record of a step: loads are summed over ranks.
  void end_step(StepRecord& record) {
    std::vector<Index> own{communicator_->traffic().bytes - before_.bytes,
                           std::llround(1e9 * (communicator_->traffic().seconds - before_.seconds))};
    for (const LayerLoad& layer : record.layers) {
      own.push_back(layer.wanted);
      own.insert(own.end(), layer.load.begin(), layer.load.end());
    }
    std::vector<Index> all(own.size() * static_cast<std::size_t>(size()));
    communicator_->gather(own.data(), all.data(), std::ssize(own) * Index{sizeof(Index)});
    clear(record.layers);
    record.ranks.assign(static_cast<std::size_t>(size()), {});
    const Index* value = all.data();
    const int members = ranks_->of_batch().members;
    for (int r = 0; r < size(); ++r) {
      record.ranks[static_cast<std::size_t>(r)].bytes = *value++;
      record.ranks[static_cast<std::size_t>(r)].waiting = 1e-9 * static_cast<double>(*value++);
      for (LayerLoad& layer : record.layers) {
        layer.wanted += *value++;
        for (std::size_t e = 0; e < layer.load.size(); ++e, ++value) {
          layer.load[e] += *value;
          const std::size_t member = e * static_cast<std::size_t>(members) / layer.load.size();
          const std::size_t owner = members == 1 ? static_cast<std::size_t>(r)
                                                 : static_cast<std::size_t>(r / members * members) + member;
          record.ranks[owner].pairs += *value;
        }
      }
    }
  }

 private:
  template <class M>
  static constexpr bool exchanges = [] {
    if constexpr (M::has_experts)
      return moegpt::detail::exchanges_experts<
          decltype(std::declval<typename M::Trunk::MoEBlock>().mixture)>();
    return false;
  }();

  explicit World(MpiCommunicator& communicator) : communicator_(&communicator) {}
  // What others than rank 0 print is discarded, except errors.
  static void silence_output() {
    if (!std::freopen("/dev/null", "w", stdout)) throw std::runtime_error("cannot open /dev/null");
  }
  template <class T>
  std::vector<T> gathered(T value) {
    std::vector<T> all(static_cast<std::size_t>(size()));
    communicator_->gather(&value, all.data(), sizeof value);
    return all;
  }
  // An error that all ranks have is told by rank 0: others wait for it to end the job.
  template <class F>
  int or_abort(F&& f) {
    int status = 1;
    try {
      return f();
    } catch (const options::Failure& error) {
      status = error.status;
      report(error.what());
    } catch (const std::exception& error) {
      report(error.what());
    }
    abort_job(status);
  }
  void report(const char* why) const {
    if (!is_first()) std::this_thread::sleep_for(std::chrono::seconds(1));
    const std::string of_rank = is_first() ? "" : "rank " + std::to_string(rank()) + ": ";
    std::fflush(stdout);
    std::fprintf(stderr, "train: %s%s\n", of_rank.c_str(), why);
  }
  static void add_empty_sequence(Batch& batch) {
    const auto length = static_cast<std::size_t>(batch.shape.length);
    const auto repeat = [](auto& list, std::size_t count) {
      for (std::size_t i = 0; i < count && !list.empty(); ++i) list.push_back(list[list.size() - count]);
    };
    ++batch.shape.batch;
    repeat(batch.inputs, length), repeat(batch.documents, length);
    repeat(batch.starts, 1), repeat(batch.lengths, 1);
    batch.targets.insert(batch.targets.end(), length, -1);
  }

  MpiCommunicator* communicator_;
  std::optional<Distribution<MpiCommunicator>> ranks_;
  int expert_ranks_ = 0;
  double watchdog_seconds_ = 300;
  Watchdog watchdog_;
  Batch part_;
  std::vector<Batch> parts_;
  Traffic before_;
};

}  // namespace training
