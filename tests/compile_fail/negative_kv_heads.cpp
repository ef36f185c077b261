// Attention alone: a negative number of heads is no default.
// expect: attention: dim must be positive, kv_heads and head_dim at least 0
#include <moegpt/layers/attention.hpp>

#ifdef FAULT
constexpr moegpt::AttentionShape shape{.dim = 8, .heads = 2, .kv_heads = -1};
#else
constexpr moegpt::AttentionShape shape{.dim = 8, .heads = 2, .kv_heads = 1};
#endif
moegpt::Attention<shape> layer;
