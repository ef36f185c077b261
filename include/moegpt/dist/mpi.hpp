#pragma once
// MPI: a Communicator on the C interface of MPI 3, and the frame of a program that runs under mpirun. Needs
// MPI's own header and library (CMake: option MOEGPT_MPI, target moegpt::mpi).
#include <moegpt/dist/distribution.hpp>

#define OMPI_SKIP_MPICXX 1  // not the C++ interface, which MPI 3 removed
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {

// std::runtime_error with MPI's text unless `code` is success.
inline void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char reason[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, reason, &length);
  std::string text = "moegpt: ";
  text += call;
  text += ": ";
  text += reason;
  throw std::runtime_error(text);
}

// `bytes` bytes as one element, so that counts are in rows: an int holds 2^31 of them.
class MpiRow {
 public:
  explicit MpiRow(Index bytes) {
    check(bytes >= 0 && bytes <= INT_MAX, "MPI: a row of ", bytes, " bytes: at most ", INT_MAX,
          " are possible");
    check_mpi(MPI_Type_contiguous(static_cast<int>(bytes), MPI_BYTE, &type_), "MPI_Type_contiguous");
    check_mpi(MPI_Type_commit(&type_), "MPI_Type_commit");
  }
  MpiRow(const MpiRow&) = delete;
  MpiRow& operator=(const MpiRow&) = delete;
  ~MpiRow() { MPI_Type_free(&type_); }
  operator MPI_Datatype() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

}  // namespace detail

// What a rank sent to others and how long its calls took, waiting for other ranks included: that of a
// communicator and of those split from it.
struct Traffic {
  Index calls = 0, bytes = 0;
  double seconds = 0;
};

// A communicator of its own, a duplicate of `parent`. MPI must be initialised; only the thread that
// initialised it calls members.
class MpiCommunicator {
 public:
  explicit MpiCommunicator(MPI_Comm parent = MPI_COMM_WORLD) {
    detail::check_mpi(MPI_Comm_dup(parent, &comm_), "MPI_Comm_dup");
    adopt();
  }
  MpiCommunicator(MpiCommunicator&& other) noexcept { *this = std::move(other); }
  MpiCommunicator& operator=(MpiCommunicator&& other) noexcept {
    std::swap(comm_, other.comm_);
    std::swap(rank_, other.rank_);
    std::swap(size_, other.size_);
    std::swap(count_, other.count_);
    std::swap(traffic_, other.traffic_);
    return *this;
  }
  ~MpiCommunicator() {
    int finalized = 1;
    if (comm_ != MPI_COMM_NULL && MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized)
      MPI_Comm_free(&comm_);
  }

  int rank() const { return rank_; }
  int size() const { return size_; }
  MPI_Comm native() const { return comm_; }
  const Traffic& traffic() const { return *traffic_; }

  void exchange(const void* send, const Index* send_count, void* receive, const Index* receive_count,
                Index row_bytes) {
    int *sends = count_.data(), *send_at = sends + size_, *receives = send_at + size_,
        *receive_at = receives + size_;
    lay_out(send_count, sends, send_at);
    lay_out(receive_count, receives, receive_at);
    const double start = MPI_Wtime();
    const detail::MpiRow row(row_bytes);
    detail::check_mpi(MPI_Alltoallv(send, sends, send_at, row, receive, receives, receive_at, row, comm_),
                      "MPI_Alltoallv");
    Index rows = 0;
    for (int r = 0; r < size_; ++r) rows += r == rank_ ? 0 : send_count[r];
    record(rows * row_bytes, start);
  }
  void gather(const void* mine, void* all, Index bytes) {
    const double start = MPI_Wtime();
    const detail::MpiRow row(bytes);
    detail::check_mpi(MPI_Allgather(mine, 1, row, all, 1, row, comm_), "MPI_Allgather");
    record(bytes * (size_ - 1), start);
  }
  MpiCommunicator split(int color) {
    MPI_Comm part = MPI_COMM_NULL;
    detail::check_mpi(MPI_Comm_split(comm_, color, rank_, &part), "MPI_Comm_split");
    return MpiCommunicator(part, traffic_);
  }

 private:
  MpiCommunicator(MPI_Comm owned, std::shared_ptr<Traffic> traffic)
      : comm_(owned), traffic_(std::move(traffic)) {
    adopt();
  }
  void adopt() {
    detail::check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    detail::check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    detail::check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    count_.resize(4 * static_cast<std::size_t>(size_));
  }
  void lay_out(const Index* count, int* counts, int* at) const {
    Index rows = 0;
    for (int r = 0; r < size_; ++r) {
      check(count[r] >= 0 && rows + count[r] <= INT_MAX, "MPI: an exchange of ", rows + count[r],
            " rows: 0 .. ", INT_MAX, " are possible; make batches smaller");
      counts[r] = static_cast<int>(count[r]);
      at[r] = static_cast<int>(rows);
      rows += count[r];
    }
  }
  void record(Index bytes, double start) {
    ++traffic_->calls;
    traffic_->bytes += bytes;
    traffic_->seconds += MPI_Wtime() - start;
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 0;
  std::vector<int> count_;  // [4, size] counts and places of sent and received rows
  std::shared_ptr<Traffic> traffic_ = std::make_shared<Traffic>();
};
static_assert(Communicator<MpiCommunicator>);

// Ends all processes of the job, after a message of this one.
[[noreturn]] inline void abort_job(int status) {
  std::fflush(nullptr);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // a launcher drops output of a job that ends
  MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);
}

// Initialises MPI, calls f(communicator), finalises MPI and returns the result of f, the exit status. If f
// throws on any rank, report(rank, message) is called there and the whole job ends with status 1: other ranks
// may be waiting for this one.
template <class F, class Report>
int run_with_mpi(int& argc, char**& argv, F&& f, Report&& report) {
  int provided = 0;
  detail::check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  for (const MPI_Comm all : {MPI_COMM_WORLD, MPI_COMM_SELF})  // for errors without a communicator
    detail::check_mpi(MPI_Comm_set_errhandler(all, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  int rank = 0, status = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  try {
    check(provided >= MPI_THREAD_FUNNELED, "MPI: this library allows no program with threads");
    MpiCommunicator world;
    status = f(world);
  } catch (const std::exception& error) {
    report(rank, error.what());
    abort_job(1);
  }
  MPI_Finalize();
  return status;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
