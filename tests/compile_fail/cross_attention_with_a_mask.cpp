// Cross-attention: the tokens of a memory have no positions among those of x, so no causal mask applies to
// them. expect: cross-attention needs Mask::full, no
#include <moegpt/layers/attention.hpp>

using namespace moegpt;
#ifdef FAULT
using CrossAttention = Attention<AttentionShape{.dim = 8, .heads = 2}>;
#else
using CrossAttention = Attention<AttentionShape{.dim = 8, .heads = 2, .mask = Mask::full}>;
#endif
void apply(const CrossAttention& layer, In<8, float> x, Out<8, float> y, CrossAttention::Tape& tape,
           CrossAttention::Scratch& scratch) {
  layer.forward(x, Memory<8, float>{x, x.count}, y, tape, scratch, {.shape = {1, x.count}});
}
