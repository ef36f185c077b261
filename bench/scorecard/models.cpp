// Scorecard: layers and training steps. Arguments select parts: machine, steps, layers, generation, threads,
// busy, memory. memory must run in a process of its own, because it reads the peak memory of the process.
#include "rows.hpp"
#include "support/adam_run.hpp"
#include "support/layers.hpp"
#include "support/workloads.hpp"

#include <moegpt/core/build.hpp>

#include <csignal>
#include <fstream>
#include <map>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace bench;

namespace {

void machine() {
  Streams streams(60000000);
  std::vector<double> one, two, update;
  for (int r = 0; r < 5; ++r) {
    one.push_back(fma_peak<float>(1, 0.1));
    two.push_back(fma_peak<float>(2, 0.1));
    const double start = now(Clock::thread);
    streams.update(Exec{1});
    update.push_back(streams.update_bytes() / (now(Clock::thread) - start));
  }
  std::printf("FMA peak     %.0f GFLOP/s with one thread, %.0f with two, at this moment; kernels for %s\n",
              1e-9 * median(one), 1e-9 * median(two), build_info().simd);
  std::printf("Bandwidth    %.1f GB/s for an in-place update, one thread\n", 1e-9 * median(update));
}

void step_row(Workload (*make)(int), int rounds, double goal) {
  const Workload w = make(1);
  scorecard::progress("step of " + w.name);
  Alternation runs;
  Streams streams(16000000);
  const int peak = runs.add_peak(1, 0.2), step = runs.add(w.flops, w.step, 0.1);
  const int update = runs.add(streams.update_bytes(), [&] { streams.update(Exec{1}); }, 0.1);
  runs.run(rounds);
  const double bound = w.flops / runs.rate(peak) + 28 * w.weights / runs.rate(update);
  char text[160];
  std::snprintf(text, sizeof text, "%s, %.0f tokens/s, %.2f times its bound", w.name.c_str(),
                w.tokens / w.flops * runs.rate(step), w.flops / runs.rate(step) / bound);
  scorecard::at_least(text, 100 * runs.ratio(step, peak), goal, "%");
}
void steps() {
  scorecard::section(
      "Whole training steps, one thread: model FLOPs of the FMA peak. Bound: FLOPs / peak + 28 bytes for "
      "each "
      "weight, which Adam reads and writes / bandwidth of an in-place update");
  step_row(makemoe, 15, 75);
  step_row(gpt2_moe_two_layers, 3, 80);
  if (memory_available() > 14e9)
    step_row(gpt2_moe, 2, 80);
  else
    std::puts("  b: GPT-2 MoE, 12 layers: needs 14 GB of free memory");
  step_row(fine_grained, 5, 70);
  step_row(gpt2_dense, 5, 75);
}

// Decoding of one sequence: bytes of the weights used per token / time, relative to the read bandwidth.
void writing_row(const char* name, Writing (*make)(int, int), int threads) {
  const Writing w = make(1, threads);
  scorecard::progress(name);
  auto reading = std::make_shared<Reading>();
  const Clock clock = clock_for(threads);
  Alternation turn;
  const int read = turn.add(reading->bytes(), [=] { reading->read(Exec{threads}); }, 0.05, clock);
  const int write = turn.add(w.bytes, w.next, 0.2, clock);
  turn.run(9);
  char text[120];
  std::snprintf(text, sizeof text, "%s, %d thread%s: %.1f ms a token, %.1f of %.1f GB/s", name, threads,
                threads == 1 ? "" : "s", 1e3 * w.bytes / turn.rate(write), 1e-9 * turn.rate(write),
                1e-9 * turn.rate(read));
  scorecard::at_least(text, 100 * turn.ratio(write, read), 80, "%");
}
// Decoding of several sequences at once: time of a step over the bound of Writing, both for one thread.
void batch_row(const char* name, Writing (*make)(int, int), int sequences) {
  const std::string text = std::string(name) + ", " + std::to_string(sequences) + " sequences";
  scorecard::progress(text);
  const Writing w = make(sequences, 1);
  Reading reading;
  Alternation turn;
  const int read = turn.add(reading.bytes(), [&] { reading.read(Exec{1}); }, 0.05);
  const int peak = turn.add_peak(1, 0.05), step = turn.add(1, w.next, 0.3);
  turn.run(9);
  scorecard::at_most(text, 1 / turn.rate(step) / w.bound(turn.rate(read), turn.rate(peak)), 1.15, "x");
}
// Prompts of 1,000 tokens: model FLOPs of the FMA peak, one thread.
void prompt_row(const char* name, Workload (*make)(int), double goal) {
  const Workload w = make(1);
  scorecard::progress(name);
  Alternation turn;
  const int peak = turn.add_peak(1, 0.2), step = turn.add(w.flops, w.step, 0.3);
  turn.run(7);
  scorecard::at_least(name, 100 * turn.ratio(step, peak), goal, "%");
}
// Tokens per second with weights in narrower storage, over those with float.
void storage_row(const char* name, Writing (*make)(int, int), double goal) {
  scorecard::progress(name);
  const Writing narrow = make(1, 1), wide = gpt2_dense_writing(1, 1);
  Alternation runs;
  const int a = runs.add(1, narrow.next, 0.2), b = runs.add(1, wide.next, 0.2);
  runs.run(9);
  scorecard::at_least(name, runs.ratio(a, b), goal, "x");
}
void generation() {
  scorecard::section(
      "Generation, float, one sequence: bytes of the weights used per token, of the read bandwidth");
  for (const int threads : {1, 2}) {
    writing_row("dense GPT-2 124M", gpt2_dense_writing, threads);
    writing_row("b: GPT-2 MoE, 2 layers", gpt2_moe_two_layers_writing, threads);
    writing_row("c: fine-grained, V 65", fine_grained_writing, threads);
  }
  scorecard::section("Generation with dense GPT-2 124M, one sequence, one thread: storage over float");
  storage_row("BF16", gpt2_dense_bf16_writing, 1.7);
  storage_row("INT8", gpt2_dense_int8_writing, 2.8);
  scorecard::section(
      "Generation of several sequences, float, one thread: time over the sum over products of max(bytes of "
      "weights / bandwidth, FLOPs / peak)");
  for (const int sequences : {4, 16})
    batch_row("b: GPT-2 MoE, 2 layers", gpt2_moe_two_layers_writing, sequences);
  scorecard::section("A prompt of 1,000 tokens, float, one thread: model FLOPs of the FMA peak");
  prompt_row("dense GPT-2 124M", gpt2_dense_prompt, 70);
  prompt_row("b: GPT-2 MoE, 2 layers", gpt2_moe_two_layers_prompt, 70);
}

void pair_row(const char* name, Pair (*make)(int), double goal) {
  scorecard::progress(name);
  const Pair pair = make(1);
  Alternation runs;
  const int dense = runs.add(1, pair.dense.call, 0.1), mixture = runs.add(1, pair.mixture.call, 0.1);
  runs.run(7);
  scorecard::at_most(name, runs.ratio(dense, mixture), goal, "x");
}
void layers() {
  scorecard::section("Layers, one thread");
  pair_row("mixture over dense, 4,096 tokens, E 8, K 2", few_large_experts, 1.08);
  pair_row("mixture over dense, 4,096 tokens, E 64, K 8", many_small_experts, 1.2);
  scorecard::progress("number of experts");
  const LayerWork few = mixture_of(4, 1), many = mixture_of(64, 1);
  Alternation runs;
  const int four = runs.add(1, few.call, 0.1), sixty_four = runs.add(1, many.call, 0.1);
  runs.run(11);
  scorecard::at_most("time of E 64 over E 4, K 2, D 128, Dff 512, 8,192 tokens", runs.ratio(four, sixty_four),
                     1.15, "x");
  scorecard::progress("AdamW");
  scorecard::at_least("AdamW, 9 M weights, of update bandwidth",
                      100 * adam_interleaved<NineMillion>(1, 25).of_bandwidth, 85, "%");
  scorecard::at_least("AdamW, 60 M weights, of update bandwidth",
                      100 * adam_interleaved<SixtyMillion>(1, 15).of_bandwidth, 85, "%");
}

// Speedup with two threads / the same ratio of the FMA peaks, interleaved.
void threads_row(Workload (*make)(int), int rounds) {
  const Workload one = make(1), two = make(2);
  scorecard::progress("two threads, " + one.name);
  Alternation runs;
  runs.pause = 0.01;
  const int peak1 = runs.add_peak(1, 0.1, Clock::wall), step1 = runs.add(1, one.step, 0.1, Clock::wall);
  const int peak2 = runs.add_peak(2, 0.1, Clock::wall), step2 = runs.add(1, two.step, 0.1, Clock::wall);
  runs.run(rounds);
  std::vector<double> figures;
  for (int r = 0; r < rounds; ++r)
    figures.push_back(runs.rate(step2, r) / runs.rate(step1, r) * runs.rate(peak1, r) / runs.rate(peak2, r));
  scorecard::at_least(one.name, median(figures), 0.93, "x");
}
void threads() {
  scorecard::section("Two threads over one, divided by the same ratio of the FMA peaks");
  threads_row(makemoe, 11);
  threads_row(fine_grained, 5);
}

// A process that spins on the second core during the lifetime of this object.
class Spinner {
 public:
  Spinner() : pid_(fork()) {
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET(1, &core);
    sched_setaffinity(0, sizeof core, &core);
    for (volatile bool on = true; on;) {
    }
  }
  ~Spinner() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Spinner(const Spinner&) = delete;
  Spinner& operator=(const Spinner&) = delete;

 private:
  pid_t pid_;
};
void busy_row(Workload (*make)(int), int rounds) {
  const Workload one = make(1), two = make(2);
  scorecard::progress("two threads on a busy machine, " + one.name);
  const Spinner spinner;
  Alternation runs;
  runs.pause = 0.01;
  const int step1 = runs.add(1, one.step, 0.4, Clock::wall), step2 = runs.add(1, two.step, 0.4, Clock::wall);
  runs.run(rounds);
  const std::vector<double> ratios = runs.ratios(step2, step1);
  scorecard::at_least(one.name + ", worst of " + std::to_string(rounds),
                      *std::min_element(ratios.begin(), ratios.end()), 1 / 1.3, "x");
}
void busy() {
  scorecard::section("Two threads over one while another process spins on the second core");
  busy_row(makemoe, 5);
  busy_row(fine_grained, 3);
}

double most_memory_held() {
  std::ifstream status("/proc/self/status");
  std::string word;
  double kilobytes = 0;
  while (status >> word)
    if (word == "VmHWM:") status >> kilobytes;
  return 1024 * kilobytes;
}
void memory() {
  const Workload w = gpt2_moe_two_layers(1);
  scorecard::progress("memory of " + w.name);
  for (int i = 0; i < 2; ++i) w.step();
  scorecard::section("Peak memory of a training run over the formula in bench/support/training.hpp");
  char name[128];
  std::snprintf(name, sizeof name, "%s: %.0f MB over %.0f MB, of them %.0f for weights", w.name.c_str(),
                1e-6 * most_memory_held(), 1e-6 * w.memory, 16e-6 * w.weights);
  scorecard::at_most(name, most_memory_held() / w.memory, 1.1, "x");
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, void (*)()> parts{
      {"machine", machine}, {"steps", steps}, {"layers", layers}, {"generation", generation},
      {"threads", threads}, {"busy", busy},   {"memory", memory}};
  for (int i = 1; i < argc; ++i)  // checks all names before the first part runs
    if (parts.find(argv[i]) == parts.end())
      return std::fprintf(stderr, "no part of the scorecard is called %s\n", argv[i]), 2;
  for (int i = 1; i < argc; ++i) parts.at(argv[i])();
  return 0;
}
