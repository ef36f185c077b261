#pragma once
// EncoderDecoder (Vaswani et al. 2017): an encoder of source tokens, and a decoder whose blocks read its
// features by cross-attention and predict the next target token. Each part has its own Config, vocabulary and
// recipe, so MoE layers may be in the encoder, the decoder, both or neither (Dense). As in PyTorch's
// nn.Transformer, each part ends with a norm, with Residual::post_norm, too.
#include <moegpt/model/encoder.hpp>
#include <moegpt/model/gpt.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Sequences in pairs, as many in each batch: sequence b of `target` is predicted from sequence b of `source`,
// whose targets are not read.
struct PairBatch {
  Batch source, target;
};

// A model that predicts targets from a source.
template <class Model>
concept ReadsSource = requires(const Model& model) {
  model.encoder;
  model.decoder;
};

template <Config EncoderConfig, class EncoderRecipe, Config DecoderConfig, class DecoderRecipe = Dense,
          class N = float>
struct EncoderDecoder {
  static_assert(DecoderConfig.mask == Mask::causal,
                "EncoderDecoder: a decoder predicts later tokens: give its Config Mask::causal");
  using T = ScalarOf<N>;
  using Scalar = T;
  using RouterRecipe = DecoderRecipe;
  using EncoderType = Encoder<EncoderConfig, EncoderRecipe, N, TrunkPart{.last_norm = true}>;
  using DecoderType =
      GPT<DecoderConfig, DecoderRecipe, N,
          TrunkPart{
              .memory_dim = EncoderConfig.dim, .memory_context = EncoderConfig.context, .last_norm = true}>;
  using Cache = typename DecoderType::Cache;
  static constexpr Config config = DecoderConfig;
  static constexpr int M = EncoderConfig.dim, D = DecoderConfig.dim, V = DecoderConfig.vocab;
  static constexpr bool has_experts = EncoderType::has_experts || DecoderType::has_experts;

  EncoderType encoder;
  DecoderType decoder;

  static constexpr auto fields() {
    return Fields{Field{"encoder", &EncoderDecoder::encoder}, Field{"decoder", &EncoderDecoder::decoder}};
  }

  // The memory of both parts. Their tapes, allowed experts and task ids are those of the two members; threads
  // and objective are the same for both.
  struct Workspace {
    Exec exec;
    Objective objective;
    typename EncoderType::Workspace encoder;
    typename DecoderType::Workspace decoder;

    // Maximum shapes of the sources and of the targets of a batch. Throws as moegpt::Workspace.
    Workspace(Shape sources, Shape targets, Exec exec_ = {}, Objective objective_ = {},
              Use use = Use::training)
        : exec(exec_),
          objective(objective_),
          encoder(sources, exec, objective_, use),
          decoder(targets, exec, objective_, use, sources.length) {}
  };

  // Mean cross-entropy of the targets, and the router losses, summed over both parts. Padding as in
  // GPT::forward; padding of the source is not attended to. The batch must live until backward. Throws
  // std::invalid_argument for invalid ids or shapes, NotFinite for a feature or a loss that is not finite.
  Loss forward(const PairBatch& batch, Workspace& work, std::optional<Key> key = {}) const {
    return forward(batch, work, key, work.objective);
  }
  // The same with another objective than the workspace's, such as Objective{} in evaluation.
  Loss forward(const PairBatch& batch, Workspace& work, std::optional<Key> key,
               const Objective& objective) const {
    const Batch& source = batch.source;
    check(source.shape.batch == batch.target.shape.batch, "a batch of ", source.shape.batch, " sources and ",
          batch.target.shape.batch, " targets: one source for each target");
    check_lengths(source.lengths, source.shape);
    check(source.documents.empty(), "the source has documents: attention to a memory has none");
    work.encoder.exec = work.decoder.exec = work.exec;
    const Pass given{.shape = source.shape,
                     .key = key ? std::optional(key->with(Purpose::encoder)) : key,
                     .lengths = source.lengths.empty() ? nullptr : source.lengths.data()};
    const auto of_encoder = encoder.forward(source.inputs, given, work.encoder, objective);
    const auto memory = encoder.memory(work.encoder);
    Loss loss = decoder.forward(batch.target, work.decoder, key, objective, {}, &memory);
    add_losses(of_encoder, loss);
    return loss;
  }

  // grad += d(weight * loss.total(objective)) of the last forward of `work`; see GPT::backward.
  void backward(const PairBatch& batch, Workspace& work, EncoderDecoder& grad, double weight = 1) const {
    const auto memory = encoder.memory(work.encoder);
    auto& d_features = work.encoder.scratch.d_features;
    d_features.resize(memory.tokens.count);
    d_features.memory().fill(0);
    const Sum<M, T> d_memory(d_features.view());
    decoder.backward(batch.target, work.decoder, grad.decoder, weight, &memory, &d_memory);
    encoder.backward(batch.source.inputs, work.encoder, grad.encoder, weight);
  }

  // Encodes the source, 1 .. context ids, and stores each decoder layer's keys and values of the memory for
  // one sequence of the cache, whose tokens are removed. Then `decoder.logits` continues it. Throws as
  // forward.
  void read_source(std::span<const int> ids, Index sequence, typename EncoderType::Workspace& work,
                   Cache& cache, std::optional<Key> key = {}) const {
    check(!ids.empty(), "a source without tokens: the decoder has nothing to read");
    const Pass given{.shape = {1, std::ssize(ids)},
                     .key = key ? std::optional(key->with(Purpose::encoder)) : key,
                     .partial = true};
    encoder.forward(ids, given, work, work.objective);
    cache.truncate(sequence, 0);
    cache.set_memory(sequence, std::ssize(ids), [&](int layer, auto keys, auto values) {
      decoder.trunk.blocks.at_layer(layer, [&](const auto& block) {
        block.cross_attention.project(work.tape.features, keys, values, work.last.pass);
      });
    });
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
