#pragma once
// RetrievalGPT (Borgeaud et al. 2022, RETRO): a GPT whose tokens attend to passages retrieved for the chunk
// before. An encoder, a Transformer with Mask::full, computes the features of the passages; chosen blocks of
// the trunk are followed by chunked cross-attention to them. All weights are trained together, the search for
// passages (retrieve_chunks) is not.
#include <moegpt/model/gpt.hpp>
#include <moegpt/retrieval/chunked_cross_attention.hpp>
#include <moegpt/retrieval/chunks.hpp>

#include <limits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// C, Recipe: of the trunk; Encoder, EncoderRecipe: of the encoder of passages.
template <Config C, RetrievalShape S, Config Encoder, class Recipe = Dense, class EncoderRecipe = Dense,
          class N = float>
struct RetrievalGPT {
  static_assert(C.mask == Mask::causal,
                "RetrievalGPT: the trunk predicts later tokens: give it Mask::causal");
  static_assert(Encoder.mask == Mask::full,
                "RetrievalGPT: passages are read both ways: give the encoder "
                "Mask::full");
  static_assert(Encoder.vocab == C.vocab, "RetrievalGPT: passages and text need one vocabulary");
  static_assert(S.chunk >= 1 && S.passages >= 1 && S.length >= 1,
                "RetrievalShape: chunk, passages and length must be at least 1");
  static_assert(S.chunk <= C.context, "RetrievalShape: a chunk is longer than the model's context");
  static_assert(S.length <= Encoder.context,
                "RetrievalShape: a passage is longer than the context of its encoder");
  static_assert(S.after.lowest >= 0 && S.after.highest < C.layers,
                "RetrievalShape: after names a layer that is not there");

  using T = ScalarOf<N>;
  using Scalar = T;
  using RouterRecipe = Recipe;
  using Trunk = Transformer<C, Recipe, N>;
  using EncoderTrunk = Transformer<Encoder, EncoderRecipe, N>;
  static constexpr Config config = C;
  static constexpr std::string_view type_name = "RetrievalGPT";  // in the text of its type
  static constexpr RetrievalShape retrieval = S;
  static constexpr int D = C.dim, V = C.vocab, M = Encoder.dim;
  static constexpr bool has_experts = Trunk::has_experts || EncoderTrunk::has_experts;
  using HeadType = Head<D, V, N, C.tied, C.head_bias>;
  static constexpr AttentionShape cross_attention{.dim = D,
                                                  .heads = S.heads > 0 ? S.heads : C.heads,
                                                  .head_dim = S.heads > 0 ? 0 : C.head_dim,
                                                  .mask = Mask::full,
                                                  .bias = C.attention_bias,
                                                  .output_bias = false,
                                                  .memory_dim = M};
  using Cross = ChunkedCrossAttention<S.chunk, cross_attention, typename Trunk::NormOfKind, N>;
  static constexpr int crosses = [] {
    int n = 0;
    for (int i = 0; i < C.layers; ++i) n += S.is_after(i);
    return n;
  }();
  static_assert(crosses > 0, "RetrievalShape: after selects no layer");

  EncoderTrunk encoder;
  Trunk trunk;
  HeapArray<Cross, crosses> cross;  // in the order of the blocks that they follow
  HeadType head;                    // tied: it has no weight and uses trunk.token_embedding
  ModelOptions options;             // of trunk and encoder

  static constexpr auto fields() {
    return Fields{Field{"encoder", &RetrievalGPT::encoder}, Field{"", &RetrievalGPT::trunk},
                  Field{"cross", &RetrievalGPT::cross}, Field{"head", &RetrievalGPT::head}};
  }

  // Largest passes of the encoder and of the tokens that attend, for all batches of at most pass.tokens().
  static Pass widest_encoder_pass(const Pass& pass) {
    return {.shape = {S.chunks(pass.tokens()) * S.passages, S.length},
            .exec = pass.exec,
            .routing = pass.routing};
  }
  static Pass widest_inner_pass(const Pass& pass) {
    return Cross::inner_pass({.shape = {1, pass.tokens()}, .exec = pass.exec, .routing = pass.routing},
                             nullptr);
  }

  struct Tape {
    typename Trunk::Tape trunk;
    Tokens<D, T> normed;  // [tokens, D] output of the trunk
    typename HeadType::Tape head;
    typename EncoderTrunk::Tape encoder;
    Tokens<M, T> features;         // [batch, chunks, P, R] of the passages' tokens
    Tokens<M, T> memory;           // [batch, chunks, P R] the same without padding between passages
    Buffer<Index> memory_lengths;  // [batch, chunks]
    HeapArray<typename Cross::Tape, crosses> cross;
    bool reads_passages = false;  // in the last forward

    void resize(const Pass& pass, Use use) {
      trunk.resize(pass, use);
      resize_all(pass, normed, head);
      const Pass passages = widest_encoder_pass(pass), inner = widest_inner_pass(pass);
      encoder.resize(passages, use);
      resize_all(passages, features, memory);
      memory_lengths.resize(inner.shape.batch);
      for (auto& tape : cross) tape.resize(inner, S.memory_length());
    }
  };
  struct Scratch {
    typename Trunk::Scratch trunk;
    Tokens<D, T> d_normed;
    typename HeadType::Scratch head;
    typename EncoderTrunk::Scratch encoder;
    Tokens<M, T> d_features, d_memory;
    typename Cross::Scratch cross;

    void resize(const Pass& pass, Use use) {
      trunk.resize(pass, use);
      const Pass passages = widest_encoder_pass(pass);
      encoder.resize(passages, use);
      cross.resize(widest_inner_pass(pass), S.memory_length());
      if (use == Use::training) {
        resize_all(pass, d_normed, head);
        resize_all(passages, d_features, d_memory);
      }
    }
  };
  struct Workspace : moegpt::Workspace<RetrievalGPT> {
    using moegpt::Workspace<RetrievalGPT>::Workspace;
    const bool* encoder_allowed = nullptr;  // [experts] of the encoder, as `allowed` of the trunk; null: all
  };

  // Mean cross-entropy of the targets, and the router losses of trunk and encoder; see GPT::forward.
  // passages: of the chunks of the batch (retrieve_chunks), empty for none; must live until backward. Without
  // passages the losses are those of the trunk and the head alone.
  Loss forward(const Batch& batch, const ChunkPassages& passages, Workspace& work,
               std::optional<Key> key = {}) const {
    return forward(batch, passages, work, key, work.objective);
  }
  Loss forward(const Batch& batch, const ChunkPassages& passages, Workspace& work, std::optional<Key> key,
               const Objective& objective) const {
    check_ids(batch.targets, "target", std::numeric_limits<int>::min(), V);
    check(std::ssize(batch.targets) == batch.shape.tokens(), "the batch has ", batch.targets.size(),
          " targets for ", batch.shape.tokens(), " tokens: one each, below zero to ignore it");
    check_lengths(batch.lengths, batch.shape);
    check(batch.documents.empty(), "RetrievalGPT: the batch has documents, but chunks do not end with them");
    check_passages(passages, batch.shape);
    Pass pass = trunk.prepare(batch.inputs,
                              {.shape = batch.shape,
                               .options = options,
                               .key = key,
                               .lengths = batch.lengths.empty() ? nullptr : batch.lengths.data()},
                              work, objective);
    if constexpr (EncoderTrunk::has_experts) check_allowed<EncoderRecipe>(work.encoder_allowed);
    Tape& tape = work.tape;
    tape.normed.resize(pass);
    tape.reads_passages = !passages.empty();
    Loss loss;
    RoutingContext routing;
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      RouterLosses<double> of_encoder;
      if (tape.reads_passages)
        of_encoder = encode(passages, work, encoder_pass(passages, work, pass, routing));
      loss = {trunk.forward(batch.inputs, tape.normed, tape.trunk, work.scratch.trunk, pass, nullptr, nullptr,
                            [&](int layer, Out<D, T> x) { attend(layer, x, work, pass); })};
      add_losses(of_encoder, loss);
      loss.cross_entropy =
          head.loss(tape.normed, trunk.token_embedding.weight, batch.targets.data(), tape.head, pass);
      loss.targets = tape.head.counted;
    });
    if (!std::isfinite(loss.total(objective)))
      not_finite("loss", loss.total(objective), first_not_finite(*this));
    work.last.complete = true, work.last.targets = batch.targets.data();
    return loss;
  }

  // grad += d(weight * loss.total(objective)) of the last forward of `work`; see GPT::backward.
  void backward(const Batch& batch, const ChunkPassages& passages, Workspace& work, RetrievalGPT& grad,
                double weight = 1) const {
    check_trains<N>();
    check(work.use == Use::training, "backward needs a workspace made for training");
    check_forward(work, "backward");
    const Tape& tape = work.tape;
    Scratch& scratch = work.scratch;
    RoutingContext routing = work.last.routing, encoder_routing;
    Pass pass = work.last.with_routing(routing);
    check(pass.shape == batch.shape && routing.ids == batch.inputs.data() &&
              tape.reads_passages == !passages.empty(),
          "backward was called with another batch than the last forward of this workspace");
    check_targets(batch.targets, work.last.targets, pass.tokens());
    check_passages(passages, batch.shape);
    check(weight >= 0 && std::isfinite(weight), "backward: the weight of this batch is ", weight,
          ", expected a finite number, 0 or more");
    routing.objective = scaled(routing.objective, weight);
    scratch.d_normed.resize(pass);
    scratch.d_memory.resize(tape.memory.count());
    scratch.d_memory.memory().fill(0);
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      head.backward(tape.normed, trunk.token_embedding.weight, tape.head, scratch.d_normed, grad.head,
                    grad.trunk.token_embedding.weight, scratch.head, pass, weight);
      trunk.backward(batch.inputs, tape.trunk, scratch.d_normed, grad.trunk, scratch.trunk, pass, nullptr,
                     nullptr, [&](int layer, Out<D, T> d) { attend_backward(layer, d, work, grad, pass); });
      if (tape.reads_passages)
        encode_backward(passages, work, grad, encoder_pass(passages, work, pass, encoder_routing));
    });
  }

 private:
  static constexpr std::size_t place(Index i) { return static_cast<std::size_t>(i); }
  // Index in `cross` of what follows a layer.
  static constexpr std::size_t cross_index(int layer) {
    std::size_t n = 0;
    for (int i = 0; i < layer; ++i) n += S.is_after(i);
    return n;
  }
  static void check_passages(const ChunkPassages& passages, Shape shape) {
    if (passages.empty()) return;
    const Index all = shape.batch * S.chunks(shape.length) * S.passages;
    check(std::ssize(passages.lengths) == all && std::ssize(passages.ids) == all * S.length,
          "RetrievalGPT got ", passages.lengths.size(), " passages of ", passages.ids.size(),
          " ids, expected ", all, " of ", S.length, " each, which retrieve_chunks returns for a batch of ",
          shape.batch, " x ", shape.length, " tokens");
    check_ids(passages.ids, "passage", 0, V);
    check_lengths(passages.lengths, {all, S.length});
  }
  // The encoder's loss weights are 1: those of the objective are of the trunk's layers.
  Pass encoder_pass(const ChunkPassages& passages, const Workspace& work, const Pass& pass,
                    RoutingContext& routing) const {
    routing = {.objective = routing_of(pass).objective,
               .ids = passages.ids.data(),
               .allowed = work.encoder_allowed,
               .task = work.task};
    routing.objective.layer_weights = {}, routing.objective.step_loads = {};
    return {.shape = {std::ssize(passages.lengths), S.length},
            .exec = pass.exec,
            .options = options,
            .dropout = pass.dropout,
            .key = pass.key ? std::optional(pass.key->with(Purpose::passages)) : std::nullopt,
            .lengths = passages.lengths.data(),
            .partial = true,
            .routing = &routing};
  }
  Memory<M, T> memory_of(const Tape& tape) const {
    return {tape.memory, S.memory_length(), tape.memory_lengths.data()};
  }
  // f(from, to, count): the features of each passage and their place in the memory of its chunk.
  template <class F>
  static void for_each_passage(const ChunkPassages& passages, F&& f) {
    Index filled = 0;
    for (Index p = 0; p < std::ssize(passages.lengths); ++p) {
      const Index length = passages.lengths[place(p)], begin = p / S.passages * S.memory_length();
      if (p % S.passages == 0) filled = 0;
      f(p * S.length, begin + filled, length);
      filled += length;
    }
  }
  RouterLosses<double> encode(const ChunkPassages& passages, Workspace& work, const Pass& pass) const {
    Tape& tape = work.tape;
    resize_all(pass, tape.features, tape.memory);
    const auto losses =
        encoder.forward(passages.ids, tape.features, tape.encoder, work.scratch.encoder, pass);
    tape.memory.memory().fill(0);
    tape.memory_lengths.resize(pass.shape.batch / S.passages);
    tape.memory_lengths.fill(0);
    for_each_passage(passages, [&](Index from, Index to, Index count) {
      std::copy_n(tape.features[from], count * M, tape.memory[to]);
      tape.memory_lengths[to / S.memory_length()] += count;
    });
    return losses;
  }
  void encode_backward(const ChunkPassages& passages, Workspace& work, RetrievalGPT& grad,
                       const Pass& pass) const {
    Scratch& scratch = work.scratch;
    scratch.d_features.resize(pass);
    scratch.d_features.memory().fill(0);
    for_each_passage(passages, [&](Index from, Index to, Index count) {
      std::copy_n(scratch.d_memory[to], count * M, scratch.d_features[from]);
    });
    encoder.backward(passages.ids, work.tape.encoder, scratch.d_features, grad.encoder, scratch.encoder,
                     pass);
  }
  void attend(int layer, Out<D, T> x, Workspace& work, const Pass& pass) const {
    if (!work.tape.reads_passages || !S.is_after(layer)) return;
    const std::size_t i = cross_index(layer);
    cross[i].forward(x, memory_of(work.tape), work.tape.cross[i], work.scratch.cross, at_cross(layer, pass));
  }
  void attend_backward(int layer, Out<D, T> d, Workspace& work, RetrievalGPT& grad, const Pass& pass) const {
    if (!work.tape.reads_passages || !S.is_after(layer)) return;
    const std::size_t i = cross_index(layer);
    cross[i].backward(memory_of(work.tape), work.tape.cross[i], d, Sum(work.scratch.d_memory.view()),
                      grad.cross[i], work.scratch.cross, at_cross(layer, pass));
  }
  // With an RNG key of its own, because self-attention of the layer draws from that of the layer.
  static Pass at_cross(int layer, const Pass& pass) {
    Pass inner = pass.at_layer(layer);
    if (inner.key) inner.key = inner.key->with(Purpose::passages);
    return inner;
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
