// mpirun -n P mpi_program train ROUTER EXPERT_RANKS STEPS | throw | invalid | refuse | not_finite
// Compiled for each MPI. Runs of tests/dist/runs.hpp, and errors on one rank.
#include <moegpt/dist/mpi.hpp>
#include <moegpt/model/init.hpp>

#include "../dist/runs.hpp"

#include <cstdio>
#include <cstdlib>

// MPI's profiling interface: what the library is really asked to send to other ranks.
static long long profiled_bytes = 0;
extern "C" int MPI_Alltoallv(const void* send, const int* counts, const int* at, MPI_Datatype type,
                             void* receive, const int* receive_counts, const int* receive_at,
                             MPI_Datatype receive_type, MPI_Comm comm) {
  int size = 0, ranks = 0, rank = 0;
  MPI_Type_size(type, &size), MPI_Comm_size(comm, &ranks), MPI_Comm_rank(comm, &rank);
  for (int r = 0; r < ranks; ++r) profiled_bytes += r == rank ? 0 : 1LL * counts[r] * size;
  return PMPI_Alltoallv(send, counts, at, type, receive, receive_counts, receive_at, receive_type, comm);
}
extern "C" int MPI_Allgather(const void* mine, int count, MPI_Datatype type, void* all, int receive_count,
                             MPI_Datatype receive_type, MPI_Comm comm) {
  int size = 0, ranks = 0;
  MPI_Type_size(type, &size), MPI_Comm_size(comm, &ranks);
  profiled_bytes += 1LL * count * size * (ranks - 1);
  return PMPI_Allgather(mine, count, type, all, receive_count, receive_type, comm);
}

namespace {

using namespace moegpt;

// Against one process; prints what must be equal on every MPI.
int train(MpiCommunicator& communicator, const std::string& router, int expert_ranks, int steps) {
  runs::AnyCommunicator world(communicator.split(0));
  runs::Setting setting{.router = router, .steps = steps, .expert_ranks = expert_ranks};
  const runs::Result result = runs::train(world, setting);
  if (profiled_bytes != world.bytes()) {
    std::printf("rank %d sent %lld bytes, counted %td\n", world.rank(), profiled_bytes, world.bytes());
    return 1;
  }
  if (world.rank() > 0) return 0;
  setting.expert_ranks = 1, setting.distributed = false;
  runs::AnyCommunicator alone{SerialCommunicator{}};
  const runs::Result one = runs::train(alone, setting);
  double loss = 0, weight = 0;
  for (std::size_t i = 0; i < one.losses.size(); ++i)
    loss = std::max(loss, std::abs(result.losses[i] / one.losses[i] - 1));
  for (std::size_t i = 0; i < one.weights.size(); ++i)
    weight = std::max(weight, std::abs(result.weights[i] - one.weights[i]));
  std::printf("%s, %d ranks, experts over %d, %d steps: hash %016llx, off by %.1e (losses) %.1e (weights)\n",
              router.c_str(), world.size(), expert_ranks, steps, static_cast<unsigned long long>(result.hash),
              loss, weight);
  return loss <= 1e-12 && weight <= 1e-10 ? 0 : 1;
}

// On how many ranks forward throws if a weight is not finite on the last one.
int count_not_finite(MpiCommunicator& world) {
  using Model =
      GPT<Config{.vocab = 6, .context = 8, .dim = 8, .layers = 1, .heads = 1, .hidden = 8, .head_bias = true},
          ExpertParallel<TopKRouter<4, 2>>>;
  Distribution<MpiCommunicator> ranks(world, world.size());
  Model model;
  init(model, Key{1});
  ranks.keep_own_experts(model);
  if (world.rank() == world.size() - 1) model.head.bias[0] = NAN;
  Model::Workspace work{{1, 8}};
  work.ranks = &ranks.of_batch();
  const Batch batch{{1, 8}, std::vector<int>(8, 1), std::vector<int>(8, 2)};
  Index count = 0;
  try {
    model.forward(batch, work);
  } catch (const NotFinite&) {
    count = 1;
  }
  ranks.of_batch().sum(&count, 1);
  return static_cast<int>(count);
}

int run(MpiCommunicator& world, int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "train") return train(world, argv[2], std::atoi(argv[3]), std::atoi(argv[4]));
  const int last = world.size() - 1;
  if (what == "throw") {  // the other ranks wait
    check(world.rank() != last, "this rank gives up");
    std::vector<int> all(static_cast<std::size_t>(world.size()));
    const int own = world.rank();
    world.gather(&own, all.data(), sizeof own);
  } else if (what == "invalid") {  // an error of MPI
    const MpiCommunicator moved = std::move(world);
    world.split(0);
  } else if (what == "refuse") {
    Distribution<MpiCommunicator> ranks(world, world.size() + 1);
  } else if (what == "not_finite") {
    const int count = count_not_finite(world);
    if (world.rank() == 0) std::printf("forward throws on %d ranks\n", count);
  } else {
    std::fprintf(stderr, "mpi_program: unknown: %s\n", what.c_str());
  }
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  return run_with_mpi(
      argc, argv, [&](MpiCommunicator& world) { return run(world, argc, argv); },
      [](int rank, const char* message) { std::fprintf(stderr, "rank %d: %s\n", rank, message); });
}
