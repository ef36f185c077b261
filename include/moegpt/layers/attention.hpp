#pragma once
// Multi-head attention (Vaswani et al. 2017) with grouped key/value heads (GQA, Ainslie et al. 2023): query
// head h uses key/value head h / (H / Hkv).
//   y = W_o concat_h softmax(scale q_h k^T) v
// Self-attention: queries, keys and values are projections of x; a key/value cache holds those of earlier
// tokens, and forward appends to it. Cross-attention: keys and values are projections of a memory.
#include <moegpt/layers/adapted_linear.hpp>
#include <moegpt/layers/key_values.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <AttentionShape S, class N = float>
struct Attention {
  static_assert(
      S.dim > 0 && S.kv_heads >= 0 && S.head_dim >= 0,
      "attention: dim must be positive, kv_heads and head_dim at least 0, which stands for the default");
  static_assert(S.heads > 0 && (S.head_dim > 0 || S.dim % S.heads == 0),
                "attention: dim must be a multiple of heads, or head_dim be given");
  static_assert(S.heads % S.key_value_heads() == 0, "attention: heads must be a multiple of kv_heads");
  static_assert(S.window >= 0, "attention: window must be at least 0, which stands for no window");
  static_assert(S.stride >= 0, "attention: stride must be at least 0, which stands for none");
  static_assert(S.window > 0 || (!S.window_at.given && S.local == Local::window && S.stride == 0),
                "attention: window_at, local and stride need a window, the size of the local keys");
  static_assert(S.memory_dim >= 0, "attention: memory_dim must be at least 0, which stands for dim");
  static_assert(S.rotary_dim >= 0 && S.rotary_dim <= S.width(),
                "attention: rotary_dim must be at most head_dim, or 0, which stands for head_dim");
  static_assert(!S.rotary || S.rotary_width() % 2 == 0,
                "attention: rotary positions need an even head_dim, or an even rotary_dim");
  static_assert(S.rotary_scaling != RotaryScaling::ntk || S.rotary_width() > 2,
                "attention: RotaryScaling::ntk needs a rotary_dim of 4 or more");

  using T = ScalarOf<N>;
  using Scalar = T;
  static constexpr int dim_in = S.dim, dim_out = S.dim, D = S.dim;
  static constexpr int d = S.width(), H = S.heads, Hkv = S.key_value_heads(), group = H / Hkv;
  static constexpr int Dq = H * d, Dkv = Hkv * d, M = S.memory_width();
  static constexpr bool causal = S.mask == Mask::causal;

  using QueryNorm = HeadNorm<S.query_key_norm, Dq, d, T>;
  using KeyNorm = HeadNorm<S.query_key_norm, Dkv, d, T>;

  static constexpr int R = S.adapter_rank;
  Projection<D, Dq, R, N, S.bias> query;
  Projection<M, Dkv, R, N, S.bias> key, value;
  Projection<Dq, D, R, N, S.output_bias> output;
  [[no_unique_address]] QueryNorm query_norm;
  [[no_unique_address]] KeyNorm key_norm;

  static constexpr auto fields() {
    return Fields{
        Field{"query", &Attention::query},           Field{"key", &Attention::key},
        Field{"value", &Attention::value},           Field{"output", &Attention::output, Start::residual},
        Field{"query_norm", &Attention::query_norm}, Field{"key_norm", &Attention::key_norm}};
  }
  using AnyAdapter = Adapter<D, Dq, R, T>;  // tape and scratch are those of all four
  struct Tape {
    Tokens<Dq, T> query, mixed;     // rotated queries; weighted sum of values, the input of `output`
    Tokens<Dkv, T> key, value;      // rotated keys; values
    Tokens<H, T> lse;               // log-sum-exp of each query's attention scores
    Tokens<Dq, T> projected_query;  // inputs of the norms, unless these are the identity
    Tokens<Dkv, T> projected_key;
    [[no_unique_address]] typename QueryNorm::Tape of_query_norm;
    [[no_unique_address]] typename KeyNorm::Tape of_key_norm;
    double dropout = 0;
    Key noise{};
    [[no_unique_address]] typename AnyAdapter::Tape of_query, of_key, of_value, of_output;
    void resize(const Pass& pass) { resize(pass, pass.shape.length); }
    [[gnu::noinline]] void resize(const Pass& pass, Index keys) {  // keys: per sequence
      resize_all(pass, query, mixed, lse, of_query, of_output, of_query_norm, of_key_norm);
      const Index projected = QueryNorm::is_identity(pass) ? 0 : pass.tokens();
      projected_query.resize(projected);
      projected_key.resize(projected);
      key.resize(pass.shape.batch * keys);
      value.resize(pass.shape.batch * keys);
      if constexpr (R > 0)
        for (auto* low : {&of_key, &of_value}) low->resize(pass.shape.batch * keys);
    }
  };
  struct Scratch {
    Buffer<T> heads;  // [workers, multi_head_scratch]
    RotaryTable<T> rotary;
    Buffer<Index> steps;  // [2 batch] position and number of a step's tokens; see mix_in_steps
    Tokens<Dq, T> d_query, d_mixed;
    Tokens<Dkv, T> d_key, d_value;
    typename QueryNorm::Scratch query_norm;
    typename KeyNorm::Scratch key_norm;
    [[no_unique_address]] typename AnyAdapter::Scratch adapter;
    void resize(const Pass& pass) {
      resize(pass, pass.shape.length, S.most_cache_rows(pass.most_positions()));
    }
    // keys: per sequence; most: with those in a cache.
    [[gnu::noinline]] void resize(const Pass& pass, Index keys, Index most) {
      const Index all = most > keys ? most : keys;
      heads.resize(pass.exec.workers() * kernels::multi_head_scratch(pass.shape.length, all, d, S.stride));
      steps.resize(S.window > 0 ? 2 * pass.shape.batch : 0);
      rotary.resize(S.rotary ? S.rotary_width() : 0, pass);
      resize_all(pass, d_query, d_mixed, query_norm, key_norm);
      d_key.resize(pass.shape.batch * keys);
      d_value.resize(pass.shape.batch * keys);
      if constexpr (R > 0)
        adapter.resize(pass.shape.batch * (keys > pass.shape.length ? keys : pass.shape.length));
    }
  };

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass,
               const KeyValues<Dkv, T>* cache = nullptr) const {
    pass.check_fits(x.count, y.count);
    check_cache(cache, pass);
    check_documents(pass);
    tape.resize(pass);
    scratch.resize(pass, pass.shape.length, cache ? cache->capacity : 0);
    const bool norms = !QueryNorm::is_identity(pass);
    moegpt::forward(query, x, norms ? tape.projected_query : tape.query, tape.of_query, scratch.adapter,
                    pass);
    moegpt::forward(key, x, norms ? tape.projected_key : tape.key, tape.of_key, scratch.adapter, pass);
    moegpt::forward(value, x, tape.value, tape.of_value, scratch.adapter, pass);
    if (norms) {
      query_norm.forward(tape.projected_query, tape.query, tape.of_query_norm, scratch.query_norm, pass);
      key_norm.forward(tape.projected_key, tape.key, tape.of_key_norm, scratch.key_norm, pass);
      if (clip_of(pass) > 0) kernels::clip<T>(pass.exec, clip_of(pass), tape.value);
    }
    if constexpr (S.rotary) {
      scratch.rotary.compute(frequencies(pass.options), pass);
      scratch.rotary.rotate(tape.query, d, pass);
      scratch.rotary.rotate(tape.key, d, pass);
    }
    start_dropout(tape, pass);
    if (cache && cache->firsts) return mix_in_steps(*cache, y, tape, scratch, pass);
    if (cache) cache->append(S, tape.key, tape.value, pass, {0, pass.shape.length});
    mix(heads_of(tape, pass, cache ? cache->capacity : pass.shape.length),
        cache ? In<Dkv, T>(cache->keys) : tape.key, cache ? In<Dkv, T>(cache->values) : tape.value, y, tape,
        scratch, pass);
  }

  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, Attention& grad, Scratch& scratch,
                const Pass& pass) const {
    scratch.resize(pass);
    mix_backward(heads_of(tape, pass, pass.shape.length), tape, dy, grad, scratch, pass);
    if constexpr (S.rotary) {
      scratch.rotary.compute(frequencies(pass.options), pass);
      scratch.rotary.rotate_back(scratch.d_query, d, pass);
      scratch.rotary.rotate_back(scratch.d_key, d, pass);
    }
    if (!QueryNorm::is_identity(pass)) {
      query_norm.backward(tape.projected_query, tape.of_query_norm, scratch.d_query, scratch.d_query,
                          grad.query_norm, scratch.query_norm, pass);
      key_norm.backward(tape.projected_key, tape.of_key_norm, scratch.d_key, scratch.d_key, grad.key_norm,
                        scratch.key_norm, pass);
      if (clip_of(pass) > 0)
        kernels::clip_backward<T>(pass.exec, clip_of(pass), tape.value, scratch.d_value, scratch.d_value);
    }
    auto& s = scratch.adapter;
    moegpt::backward(query, x, tape.of_query, scratch.d_query, dx, grad.query, s, pass);
    moegpt::backward(key, x, tape.of_key, scratch.d_key, Sum(dx), grad.key, s, pass);
    moegpt::backward(value, x, tape.of_value, scratch.d_value, Sum(dx), grad.value, s, pass);
  }

  // Cross-attention (Vaswani et al. 2017, section 3.2.3). std::invalid_argument for a wrong shape of memory.
  void forward(In<D, T> x, Memory<M, T> memory, Out<D, T> y, Tape& tape, Scratch& scratch,
               const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    check_memory(memory.tokens.count, memory.tokens.count, memory.length, memory.lengths, pass);
    tape.resize(pass, memory.length);
    moegpt::forward(key, memory.tokens, tape.key, tape.of_key, scratch.adapter, pass);
    moegpt::forward(value, memory.tokens, tape.value, tape.of_value, scratch.adapter, pass);
    attend(x, tape.key, tape.value, memory.length, memory.lengths, y, tape, scratch, pass);
  }

  // Overwrites dx. Adds to d_memory, because every layer of a decoder reads the memory.
  void backward(In<D, T> x, Memory<M, T> memory, const Tape& tape, In<D, T> dy, Out<D, T> dx,
                Sum<M, T> d_memory, Attention& grad, Scratch& scratch, const Pass& pass) const {
    scratch.resize(pass, memory.length, 0);
    mix_backward(cross_heads_of(tape, pass, memory.length, memory.lengths), tape, dy, grad, scratch, pass);
    auto& s = scratch.adapter;
    moegpt::backward(query, x, tape.of_query, scratch.d_query, dx, grad.query, s, pass);
    moegpt::backward(key, memory.tokens, tape.of_key, scratch.d_key, d_memory, grad.key, s, pass);
    moegpt::backward(value, memory.tokens, tape.of_value, scratch.d_value, d_memory, grad.value, s, pass);
  }

  // The keys and values of a memory, for generation. Allocates if there are adapters.
  void project(In<M, T> memory, Out<Dkv, T> keys, Out<Dkv, T> values, const Pass& pass) const {
    typename AnyAdapter::Tape low;
    typename AnyAdapter::Scratch scratch;
    if constexpr (R > 0) low.resize(memory.count), scratch.resize(memory.count);
    moegpt::forward(key, memory, keys, low, scratch, pass);
    moegpt::forward(value, memory, values, low, scratch, pass);
  }

  // Cross-attention to `projected`, the keys and values of a memory, which generation computes once with
  // project. lengths [batch]: of the memory; null: projected.capacity. No backward.
  void forward(In<D, T> x, const KeyValues<Dkv, T>& projected, const Index* lengths, Out<D, T> y, Tape& tape,
               Scratch& scratch, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    check_memory(projected.keys.count, projected.values.count, projected.capacity, lengths, pass);
    tape.resize(pass, 0);
    attend(x, projected.keys, projected.values, projected.capacity, lengths, y, tape, scratch, pass);
  }

 private:
  void attend(In<D, T> x, In<Dkv, T> keys, In<Dkv, T> values, Index length, const Index* lengths, Out<D, T> y,
              Tape& tape, Scratch& scratch, const Pass& pass) const {
    static_assert(S.mask == Mask::full && !S.rotary && S.window == 0,
                  "attention: cross-attention needs Mask::full, no "
                  "rotary positions and no window, because a memory has no positions among those of x");
    static_assert(S.query_key_norm == QueryKeyNorm::none,
                  "attention: cross-attention has no norm of queries and keys");
    check(pass.options.qkv_clip == 0, "qkv_clip is ", pass.options.qkv_clip,
          ", but cross-attention does not limit its queries, keys and values: expected 0");
    scratch.resize(pass, length, 0);
    moegpt::forward(query, x, tape.query, tape.of_query, scratch.adapter, pass);
    start_dropout(tape, pass);
    mix(cross_heads_of(tape, pass, length, lengths), keys, values, y, tape, scratch, pass);
  }
  // y = W_o concat_h softmax(scale q_h k^T) v
  void mix(const kernels::MultiHead<T>& heads, In<Dkv, T> keys, In<Dkv, T> values, Out<D, T> y, Tape& tape,
           Scratch& scratch, const Pass& pass) const {
    kernels::multi_head_forward<T>(pass.exec, heads, tape.query, keys, values, tape.mixed, tape.lse,
                                   scratch.heads.data());
    moegpt::forward(output, tape.mixed, y, tape.of_output, scratch.adapter, pass);
  }
  // The same with a cache of a window. It has room for S.step further tokens of each sequence: the tokens of
  // a longer call are appended and attended from in steps.
  void mix_in_steps(const KeyValues<Dkv, T>& cache, Out<D, T> y, Tape& tape, Scratch& scratch,
                    const Pass& pass) const {
    const Index batch = pass.shape.batch, length = pass.shape.length;
    Index *const firsts = scratch.steps.data(), *const lengths = firsts + batch;
    for (Index done = 0; done < length; done += S.step) {
      const Rows tokens{done, length - done < S.step ? length - done : S.step};
      cache.append(S, tape.key, tape.value, pass, tokens);
      for (Index b = 0; b < batch; ++b) {
        const Index left = pass.length_of(b) - done;  // below zero: padding, which has no keys of its own
        firsts[b] = pass.positions().first_of(b) + done;
        lengths[b] = left < tokens.count ? left : tokens.count;
      }
      kernels::MultiHead<T> heads = heads_of(tape, pass, cache.capacity);
      heads.length = tokens.count, heads.query_rows = length;
      heads.firsts = firsts, heads.key_lengths = lengths, heads.origins = cache.firsts;
      const Rows rows{done, pass.tokens() - done};
      kernels::multi_head_forward<T>(pass.exec, heads, MatrixView<const T>(tape.query.rows(rows)),
                                     In<Dkv, T>(cache.keys), In<Dkv, T>(cache.values), tape.mixed.rows(rows),
                                     tape.lse.rows(rows), scratch.heads.data());
    }
    moegpt::forward(output, tape.mixed, y, tape.of_output, scratch.adapter, pass);
  }
  void mix_backward(const kernels::MultiHead<T>& heads, const Tape& tape, In<D, T> dy, Attention& grad,
                    Scratch& scratch, const Pass& pass) const {
    moegpt::backward(output, tape.mixed, tape.of_output, dy, scratch.d_mixed, grad.output, scratch.adapter,
                     pass);
    kernels::multi_head_backward<T>(pass.exec, heads, tape.query, tape.key, tape.value, tape.mixed, tape.lse,
                                    scratch.d_mixed, scratch.d_query, scratch.d_key, scratch.d_value,
                                    scratch.heads.data());
  }
  static void start_dropout(Tape& tape, const Pass& pass) {
    tape.dropout = pass.applied_dropout();
    tape.noise = pass.key ? pass.key->with(Purpose::attention_dropout) : Key{};
  }
  [[gnu::noinline]] static void check_memory(Index keys, Index values, Index length, const Index* lengths,
                                             const Pass& pass) {
    const Index tokens = pass.shape.batch * length;
    check(length >= 0 && keys == tokens && values == tokens, "attention: a memory with ", keys,
          " tokens for keys and ", values, " for values, expected ", tokens, ", because there are ",
          pass.shape.batch, " sequences of ", length);
    for (Index b = 0; lengths && b < pass.shape.batch; ++b)
      check(lengths[b] >= 0 && lengths[b] <= length, "attention: sequence ", b, " of the memory has length ",
            lengths[b], ", expected 0 .. ", length);
  }
  [[gnu::noinline]] static void check_cache(const KeyValues<Dkv, T>* cache, const Pass& pass) {
    for (Index b = 0; !cache && b < pass.shape.batch; ++b)
      check(pass.positions().first_of(b) == 0, "attention: the tokens of sequence ", b, " begin at position ",
            pass.positions().first_of(b),
            ", but without a cache there are no keys before them: give it one, or first_position 0");
    if (cache) cache->check_fits(S, pass);
  }
  [[gnu::noinline]] static void check_documents(const Pass& pass) {
    for (Index n = 0; pass.documents && n < pass.tokens(); ++n) {
      const Rows own = pass.documents[n],
                 before = n % pass.shape.length > 0 ? pass.documents[n - 1] : Rows{0, 0};
      check(
          own.count >= 0 && own.first >= before.first && own.first + own.count >= before.first + before.count,
          "attention: the document of token ", n, " is positions ", own.first, " .. ",
          own.first + own.count - 1, ": it may neither begin nor end before that of the token before it");
    }
  }
  static kernels::MultiHead<T> heads_of(const Tape& tape, const Pass& pass, Index key_rows) {
    const double scale =
        pass.options.attention_scale > 0 ? pass.options.attention_scale : 1 / std::sqrt(double(d));
    return {.batch = pass.shape.batch,
            .length = pass.shape.length,
            .heads = H,
            .kv_heads = Hkv,
            .width = d,
            .key_rows = key_rows,
            .key_length = pass.shape.length,
            .key_lengths = pass.lengths,
            .firsts = pass.first_positions,
            .own = pass.documents,
            .common = {.scale = static_cast<T>(scale),
                       .rule = {.mask = S.mask,
                                .first = pass.first_position,
                                .window = S.has_window(pass.layer) ? S.window : 0,
                                .local = S.local},
                       .dropout = tape.dropout,
                       .key_stride = Index{1} << 24},
            .noise = tape.noise,
            .first_sequence = pass.first_token / pass.stride(),
            .stride = S.has_window(pass.layer) ? S.stride : 0};
  }
  static kernels::MultiHead<T> cross_heads_of(const Tape& tape, const Pass& pass, Index length,
                                              const Index* lengths) {
    kernels::MultiHead<T> heads = heads_of(tape, pass, length);
    heads.key_length = length, heads.key_lengths = lengths, heads.own = nullptr, heads.cross = true;
    return heads;
  }
  static kernels::Rotary frequencies(const ModelOptions& options) {
    return rotary_of(S.rotary_width(), S.pairing, S.rotary_scaling, options);
  }
  static T clip_of(const Pass& pass) { return static_cast<T>(pass.options.qkv_clip); }
};
static_assert(lists_every_field<Attention<AttentionShape{.dim = 4, .heads = 2}>>());
static_assert(Layer<Attention<AttentionShape{.dim = 4, .heads = 2}>>);
static_assert(
    LayerWithMemory<Attention<AttentionShape{.dim = 4, .heads = 2, .mask = Mask::full, .memory_dim = 6}>, 6>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
