#pragma once
// Multi-head self-attention with grouped key/value heads: query heads h shares key/value head h / (H / Hkv).
//   y = W_o concat_h softmax(scale q_h k^T) v
// With a key/value cache, earlier tokens are found there and this call's keys and values are appended.
#include <moegpt/kernels/attention.hpp>
#include <moegpt/kernels/rotary.hpp>
#include <moegpt/layers/linear.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// The extents of an attention layer. kv_heads 0: as many as heads; head_dim 0: dim / heads.
struct AttentionShape {
  int dim, heads, kv_heads = 0, head_dim = 0;
  Mask mask = Mask::causal;
  bool rotary = false;
  bool bias = false;          // of query, key and value
  bool output_bias = true;

  constexpr int key_value_heads() const { return kv_heads > 0 ? kv_heads : heads; }
  constexpr int width() const { return head_dim > 0 ? head_dim : dim / heads; }
};

// Keys and values of `capacity` positions for each sequence: position p of sequence b is row b * capacity + p.
template <int Dkv, class T>
struct KeyValues {
  Out<Dkv, T> keys, values;
  Index capacity = 0;
};

template <AttentionShape S, class T = float>
struct Attention {
  static_assert(S.heads > 0 && (S.head_dim > 0 || S.dim % S.heads == 0),
                "attention: dim must be a multiple of heads, or head_dim be given");
  static_assert(S.heads % S.key_value_heads() == 0, "attention: heads must be a multiple of kv_heads");
  static_assert(!S.rotary || S.width() % 2 == 0, "attention: rotary positions need an even head_dim");

  using Scalar = T;
  static constexpr int dim_in = S.dim, dim_out = S.dim, D = S.dim;
  static constexpr int d = S.width(), H = S.heads, Hkv = S.key_value_heads(), group = H / Hkv;
  static constexpr int Dq = H * d, Dkv = Hkv * d;
  static constexpr bool causal = S.mask == Mask::causal;

  Linear<D, Dq, T, S.bias> query;
  Linear<D, Dkv, T, S.bias> key, value;
  Linear<Dq, D, T, S.output_bias> output;

  static constexpr auto fields() {
    return std::tuple{Field{"query", &Attention::query}, Field{"key", &Attention::key},
                      Field{"value", &Attention::value}, Field{"output", &Attention::output}};
  }
  struct Tape {
    Tokens<Dq, T> query, mixed;       // queries after rotation; sum of values, before the output projection
    Tokens<Dkv, T> key, value;        // keys after rotation
    Tokens<H, T> lse;                 // log sum exp of each query's scores
    double dropout = 0;
    Key noise{};
    void resize(const Pass& pass) {
      query.resize(pass.tokens());
      mixed.resize(pass.tokens());
      key.resize(pass.tokens());
      value.resize(pass.tokens());
      lse.resize(pass.tokens());
    }
  };
  struct Scratch {
    Buffer<T> scores, lse;            // of one block of queries, for each worker
    Buffer<T> cosine, sine;           // [length, d / 2]
    Tokens<Dq, T> d_query, d_mixed;
    Tokens<Dkv, T> d_key, d_value;
    void resize(const Pass& pass) {
      scores.resize(pass.exec.workers() * kernels::attention_scratch(pass.first_position + pass.shape.length));
      lse.resize(pass.exec.workers() * pass.shape.length);
      if (S.rotary) {
        cosine.resize(pass.shape.length * (d / 2));
        sine.resize(pass.shape.length * (d / 2));
      }
      d_query.resize(pass.tokens());
      d_mixed.resize(pass.tokens());
      d_key.resize(pass.tokens());
      d_value.resize(pass.tokens());
    }
  };

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, Scratch& scratch, const Pass& pass,
               const KeyValues<Dkv, T>* cache = nullptr) const {
    tape.resize(pass);
    scratch.resize(pass);
    tape.dropout = pass.dropout();
    tape.noise = pass.key ? pass.key->with(Purpose::attention_dropout) : Key{};
    query.forward(x, tape.query, pass);
    key.forward(x, tape.key, pass);
    value.forward(x, tape.value, pass);
    if constexpr (S.rotary) {
      angles(scratch, pass);
      rotate_heads<H>(tape.query, scratch, pass, T(1));
      rotate_heads<Hkv>(tape.key, scratch, pass, T(1));
    }
    if (cache) append(*cache, tape, pass);
    const Index length = pass.shape.length;
    pass.exec.parallel_for_worker(pass.shape.batch * H, [&](Index task, int worker) {
      const Index b = task / H, h = task % H;
      const Rows rows{b * length, length};
      T* lse = scratch.lse.data() + worker * length;
      kernels::attention_forward<T>(head(tape, pass, b, h), columns<Dq>(tape.query.rows(rows), h),
                                    keys_of(tape.key, cache ? cache->keys : Out<Dkv, T>{}, cache, pass, b, h),
                                    keys_of(tape.value, cache ? cache->values : Out<Dkv, T>{}, cache, pass, b, h),
                                    columns<Dq>(tape.mixed.rows(rows), h), lse,
                                    scratch.scores.data() + worker * (scratch.scores.size() / pass.exec.workers()));
      for (Index t = 0; t < length; ++t) tape.lse[rows.first + t][h] = lse[t];
    });
    output.forward(tape.mixed, y, pass);
  }

  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, Attention& grad, Scratch& scratch,
                const Pass& pass) const {
    scratch.resize(pass);
    output.backward(tape.mixed, dy, scratch.d_mixed, grad.output, pass);
    scratch.d_key.memory().fill(0);
    scratch.d_value.memory().fill(0);
    const Index length = pass.shape.length;
    // a task owns the gradient of one key/value head and of the query heads that share it
    pass.exec.parallel_for_worker(pass.shape.batch * Hkv, [&](Index task, int worker) {
      const Index b = task / Hkv, kv = task % Hkv;
      const Rows rows{b * length, length};
      T* lse = scratch.lse.data() + worker * length;
      for (Index h = kv * group; h < (kv + 1) * group; ++h) {
        for (Index t = 0; t < length; ++t) lse[t] = tape.lse[rows.first + t][h];
        kernels::attention_backward<T>(
            head(tape, pass, b, h), columns<Dq>(tape.query.rows(rows), h), columns<Dkv>(tape.key.rows(rows), kv),
            columns<Dkv>(tape.value.rows(rows), kv), columns<Dq>(tape.mixed.rows(rows), h), lse,
            columns<Dq>(scratch.d_mixed.view().rows(rows), h), columns<Dq>(scratch.d_query.rows(rows), h),
            columns<Dkv>(scratch.d_key.rows(rows), kv), columns<Dkv>(scratch.d_value.rows(rows), kv),
            scratch.scores.data() + worker * (scratch.scores.size() / pass.exec.workers()));
      }
    });
    if constexpr (S.rotary) {
      angles(scratch, pass);
      rotate_heads<H>(scratch.d_query, scratch, pass, T(-1));
      rotate_heads<Hkv>(scratch.d_key, scratch, pass, T(-1));
    }
    query.backward(x, scratch.d_query, dx, grad.query, pass);
    key.backward_sum(x, scratch.d_key, dx, grad.key, pass);
    value.backward_sum(x, scratch.d_value, dx, grad.value, pass);
  }

 private:
  // Head h of some tokens: tokens x d.
  template <int Width, class U>
  static MatrixView<U> columns(TokensView<Width, U> x, Index h) {
    return MatrixView<U>(x).cols_at(h * d, d);
  }
  static MatrixView<const T> keys_of(const Tokens<Dkv, T>& fresh, Out<Dkv, T> held, const KeyValues<Dkv, T>* cache,
                                     const Pass& pass, Index b, Index h) {
    if (cache) return columns<Dkv, const T>(held.rows({b * cache->capacity, cache->capacity}), h / group);
    return columns<Dkv, const T>(fresh.rows({b * pass.shape.length, pass.shape.length}), h / group);
  }
  kernels::AttentionHead<T> head(const Tape& tape, const Pass& pass, Index b, Index h) const {
    const double scale = pass.options.attention_scale > 0 ? pass.options.attention_scale : 1 / std::sqrt(double(d));
    kernels::AttentionHead<T> result{.scale = static_cast<T>(scale), .mask = S.mask, .first = pass.first_position};
    result.keys = pass.first_position + pass.length_of(b);
    result.dropout = tape.dropout;
    // the mask belongs to the sequence's global number, not to its place in this call
    const Index sequence = pass.first_token / pass.stride() + b;
    result.key = {mix64(tape.noise.value + static_cast<std::uint64_t>(sequence * H + h))};
    result.key_stride = Index{1} << 24;
    return result;
  }
  static void angles(Scratch& scratch, const Pass& pass) {
    pass.exec.parallel_for(pass.shape.length, [&](Index t) {
      kernels::rotary_angles(pass.first_position + t, pass.options.rotary_base, d,
                             scratch.cosine.data() + t * (d / 2), scratch.sine.data() + t * (d / 2));
    });
  }
  template <int Heads>
  static void rotate_heads(TokensView<Heads * d, T> x, const Scratch& scratch, const Pass& pass, T direction) {
    for_each_piece(pass.exec, x.count, token_piece, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n) {
        const Index t = n % pass.shape.length;
        for (int h = 0; h < Heads; ++h)
          kernels::rotate<T>(x[n] + h * d, scratch.cosine.data() + t * (d / 2), scratch.sine.data() + t * (d / 2), d,
                             direction);
      }
    });
  }
  static void append(const KeyValues<Dkv, T>& cache, const Tape& tape, const Pass& pass) {
    for (Index b = 0; b < pass.shape.batch; ++b)
      for (Index t = 0; t < pass.shape.length; ++t) {
        const Index from = b * pass.shape.length + t, to = b * cache.capacity + pass.first_position + t;
        std::memcpy(cache.keys[to], tape.key[from], Dkv * sizeof(T));
        std::memcpy(cache.values[to], tape.value[from], Dkv * sizeof(T));
      }
  }
};
static_assert(lists_every_field<Attention<AttentionShape{.dim = 4, .heads = 2}>>());
static_assert(Layer<Attention<AttentionShape{.dim = 4, .heads = 2}>>);

}  // namespace moegpt::inline MOEGPT_BUILD
