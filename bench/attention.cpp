// Attention kernels (scores, softmax, sums of values): per cent of the FMA peak, by sequence length T.
// 4,096 tokens, 8 heads of 64. Forward has 2 (T + 1) D FLOP per token, backward twice that by convention.
// With a window, blocks or a stride it has 4 D FLOP for each key that a token attends to: rows local/..., of
// 8,192 tokens, whose tokens/s depend on the window, not on T, except with a stride.
#include <moegpt/layers/attention.hpp>

#include "support/table.hpp"

using namespace bench;

namespace {

struct Core {
  static constexpr int heads = 8, width = 64, D = heads * width;
  using Layer = Attention<AttentionShape{.dim = D, .heads = heads}>;
  Pass pass;
  typename Layer::Scratch scratch;
  Tokens<D, float> q, k, v, mixed, d_mixed, dq, dk, dv;
  Tokens<heads, float> lse;
  kernels::MultiHead<float> m;

  Core(Index length, int threads, Index tokens = 4096, const kernels::KeyRule& rule = {}, Index stride = 0)
      : pass{.shape = {tokens / length, length}, .exec = Exec{.threads = threads}} {
    Rng rng(1);
    for (auto* t : {&q, &k, &v, &mixed, &d_mixed, &dq, &dk, &dv}) {
      t->resize(pass.tokens());
      for (auto& value : t->memory()) value = static_cast<float>(rng.normal());
    }
    lse.resize(pass.tokens());
    scratch.heads.resize(pass.exec.workers() * kernels::multi_head_scratch(length, length, width, stride));
    m = {.batch = pass.shape.batch,
         .length = length,
         .heads = heads,
         .kv_heads = heads,
         .width = width,
         .key_rows = length,
         .key_length = length,
         .common = {.scale = 0.125f, .rule = rule, .key_stride = Index{1} << 24},
         .noise = {},
         .first_sequence = 0,
         .stride = stride};
  }
  void forward() {
    kernels::multi_head_forward<float>(pass.exec, m, q, k, v, mixed, lse, scratch.heads.data());
  }
  void backward() {
    kernels::multi_head_backward<float>(pass.exec, m, q, k, v, mixed, lse, d_mixed, dq, dk, dv,
                                        scratch.heads.data());
  }
  double flops() const {
    kernels::KeyRule rule = m.common.rule;
    rule.keys = m.length;
    Index keys = 0;
    for (Index i = 0; i < m.length; ++i)
      keys += rule.end(i) - rule.begin(i) + (m.stride > 0 ? rule.begin(i) / m.stride : 0);
    return 4.0 * D * static_cast<double>(pass.shape.batch * keys);
  }
  double tokens() const { return static_cast<double>(pass.tokens()); }
};

}  // namespace

int main(int argc, char** argv) {
  for (const int threads : {1, 2})
    for (const Index length : {32, 64, 256, 1024}) {
      add(name("forward", length, threads), 10, [=](benchmark::State& state) {
        Core core(length, threads);
        measure(state, {.flops = core.flops(), .tokens = 4096, .threads = threads}, [&] { core.forward(); });
      });
      add(name("backward", length, threads), 10, [=](benchmark::State& state) {
        Core core(length, threads);
        core.forward();
        measure(state, {.flops = 2 * core.flops(), .tokens = 4096, .threads = threads},
                [&] { core.backward(); });
      });
    }
  const struct {
    const char* name;
    kernels::KeyRule rule;
    Index stride;
  } locals[] = {{"window", {.window = 256}, 0},
                {"block", {.window = 256, .local = Local::block}, 0},
                {"stride", {.window = 256}, 64}};
  for (const auto& local : locals)
    for (const Index length : {2048, 4096, 8192}) {
      const std::string row = std::string("local/") + local.name;
      add(name(row, "forward", length), 10, [=](benchmark::State& state) {
        Core core(length, 1, 8192, local.rule, local.stride);
        measure(state, {.flops = core.flops(), .tokens = core.tokens()}, [&] { core.forward(); });
      });
      add(name(row, "backward", length), 10, [=](benchmark::State& state) {
        Core core(length, 1, 8192, local.rule, local.stride);
        core.forward();
        measure(state, {.flops = 2 * core.flops(), .tokens = core.tokens()}, [&] { core.backward(); });
      });
    }
  return bench::run(argc, argv);
}
