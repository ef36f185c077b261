#pragma once
// For tests of retrieval: a store of random passages, and a RetrievalGPT that finds its passages itself.
#include <moegpt/retrieval/retrieval_gpt.hpp>
#include <moegpt/retrieval/source_experts.hpp>
#include <moegpt/routing/top_k_router.hpp>

#include "../model/support.hpp"

inline PassageStore random_store(Index passages, int vocab, std::uint64_t seed) {
  HashedNGrams retriever{.features = 32};
  PassageStore store(retriever.dim());
  for (Index i = 0; i < passages; ++i)
    add_passage(store, retriever, random_ids(1 + i % 5, vocab, seed + static_cast<std::uint64_t>(i)),
                static_cast<int>(i % 2));
  return store;
}

// As a model of one batch: for gradcheck and find_leak. Offset: of the ids that a chunk's passages are
// retrieved for; above 0 it looks ahead.
template <class ModelType, Index Offset = 0>
struct RetrievalProbe {
  using Scalar = typename ModelType::Scalar;
  static constexpr Config config = ModelType::config;
  static constexpr int D = ModelType::D;
  ModelType model;
  ModelOptions options;
  static constexpr auto fields() { return Fields{Field{"", &RetrievalProbe::model}}; }

  struct Workspace : ModelType::Workspace {
    using ModelType::Workspace::Workspace;
    PassageStore store = random_store(12, config.vocab, 5);
    ChunkPassages passages{};
  };
  Loss forward(const Batch& batch, Workspace& work, std::optional<Key> key) const {
    Batch asked = batch;
    std::rotate(asked.inputs.begin(), asked.inputs.begin() + Offset, asked.inputs.end());
    HashedNGrams retriever{.features = 32};
    retrieve_chunks(work.store, retriever, asked, ModelType::retrieval, work.passages);
    return model.forward(batch, work.passages, work, key);
  }
  void backward(const Batch& batch, Workspace& work, RetrievalProbe& grad) const {
    model.backward(batch, work.passages, work, grad.model);
  }
};
