// Attention kernels (scores, softmax, sums of values): per cent of the FMA peak, by sequence length T.
// 4,096 tokens, 8 heads of 64. Forward has 2 (T + 1) D FLOP per token, backward twice that by convention.
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

  Core(Index length, int threads) : pass{.shape = {4096 / length, length}, .exec = Exec{.threads = threads}} {
    Rng rng(1);
    for (auto* t : {&q, &k, &v, &mixed, &d_mixed, &dq, &dk, &dv}) {
      t->resize(pass.tokens());
      for (auto& value : t->memory()) value = static_cast<float>(rng.normal());
    }
    lse.resize(pass.tokens());
    scratch.resize(pass);
    m = {.batch = pass.shape.batch,
         .length = length,
         .heads = heads,
         .kv_heads = heads,
         .width = width,
         .key_rows = length,
         .key_length = length,
         .common = {.scale = 0.125f, .rule = {.mask = Mask::causal}, .key_stride = Index{1} << 24},
         .noise = {},
         .first_sequence = 0};
  }
  void forward() {
    kernels::multi_head_forward<float>(pass.exec, m, q, k, v, mixed, lse, scratch.heads.data());
  }
  void backward() {
    kernels::multi_head_backward<float>(pass.exec, m, q, k, v, mixed, lse, d_mixed, dq, dk, dv,
                                        scratch.heads.data());
  }
  double flops() const { return 2.0 * D * static_cast<double>(pass.tokens() * (m.length + 1)); }
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
  return bench::run(argc, argv);
}
