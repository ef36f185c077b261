#pragma once
// What is retrieved for a text in chunks (Borgeaud et al. 2022, RETRO). The passages of a chunk are found by
// the ids of that chunk alone. Tokens from its last one on attend to them, up to the last but one of the next
// chunk: only these can know the whole chunk, so a causal model with retrieval is causal.
#include <moegpt/model/batch.hpp>
#include <moegpt/model/config.hpp>
#include <moegpt/retrieval/retriever.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Required: chunk, passages, length.
struct RetrievalShape {
  int chunk;         // m, tokens of a chunk
  int passages;      // P, passages of a chunk, at most
  int length;        // R, tokens of a passage, at most
  int heads = 0;     // of cross-attention; 0: those of the model
  LayerSet after{};  // blocks that are followed by cross-attention; none given: all

  constexpr Index chunks(Index tokens) const { return tokens / chunk; }  // of a sequence; the rest has none
  constexpr Index memory_length() const { return Index{passages} * length; }
  constexpr bool is_after(int layer) const { return !after.given || after.has(layer); }
  bool operator==(const RetrievalShape&) const = default;
};

// The passages of a batch in chunks. Empty: none.
struct ChunkPassages {
  std::vector<int> ids{};        // [batch, chunks, P, R], each padded with 0
  std::vector<Index> lengths{};  // [batch, chunks, P], 0 .. R; 0: no passage
  std::vector<Index> index{};    // [batch, chunks, P] in the store; Neighbours::none: no passage

  bool empty() const { return lengths.empty(); }
};

// A chunk of a text: sequence b, chunk g, and its place [b, g] among all chunks of the batch.
struct ChunkOf {
  Index sequence, chunk, number;
};

// Searches and what they need, reused from batch to batch.
struct ChunkSearch {
  std::vector<float> queries{};  // [batch, chunks, dim]
  Neighbours found{};
};

// Sets `passages` to those of each chunk of inputs [tokens]. lengths [batch] as in a Batch: chunks with
// padding get none. excluded(ChunkOf, passage): whether a passage may not be found.
template <Retriever R, class Excluded>
void retrieve_chunks(const PassageStore& store, R& retriever, std::span<const int> inputs, Shape shape,
                     std::span<const Index> lengths, const RetrievalShape& s, ChunkPassages& passages,
                     ChunkSearch& search, const Exec& exec, const Excluded& excluded) {
  check(std::ssize(inputs) == shape.tokens(), "retrieve_chunks got ", inputs.size(), " ids for ", shape.batch,
        " x ", shape.length, " tokens");
  check(lengths.empty() || std::ssize(lengths) == shape.batch, "retrieve_chunks got ", lengths.size(),
        " lengths for ", shape.batch, " sequences: one each, or none if there is no padding");
  check(retriever.dim() == store.dim(), "retrieve_chunks: the retriever's vectors have ", retriever.dim(),
        " features, those of the store ", store.dim());
  const auto place = [](Index i) { return static_cast<std::size_t>(i); };
  const Index chunks = s.chunks(shape.length), all = shape.batch * chunks;
  const auto chunk_of = [&](Index n) { return ChunkOf{n / chunks, n % chunks, n}; };
  search.queries.assign(place(all * store.dim()), 0);
  for (Index n = 0; n < all; ++n) {
    const ChunkOf c = chunk_of(n);
    if (lengths.empty() || (c.chunk + 1) * s.chunk <= lengths[place(c.sequence)])
      retriever.embed(inputs.subspan(place(c.sequence * shape.length + c.chunk * s.chunk), place(s.chunk)),
                      std::span(search.queries).subspan(place(n * store.dim()), place(store.dim())));
  }
  store.nearest(search.queries, s.passages, search.found, exec, [&](Index n, Index passage) {
    const ChunkOf c = chunk_of(n);
    return (!lengths.empty() && (c.chunk + 1) * s.chunk > lengths[place(c.sequence)]) || excluded(c, passage);
  });
  passages.index.assign(search.found.index.begin(), search.found.index.end());
  passages.ids.assign(place(all * s.memory_length()), 0);
  passages.lengths.assign(place(all * s.passages), 0);
  for (Index p = 0; p < all * s.passages; ++p) {
    const Index found = passages.index[place(p)];
    if (found == Neighbours::none) continue;
    const std::span<const int> text = store.text(found);
    const Index length = std::min<Index>(std::ssize(text), s.length);
    std::copy_n(text.begin(), length, passages.ids.begin() + p * s.length);
    passages.lengths[place(p)] = length;
  }
}
template <Retriever R>
void retrieve_chunks(const PassageStore& store, R& retriever, const Batch& batch, const RetrievalShape& s,
                     ChunkPassages& passages, const Exec& exec = {}) {
  ChunkSearch search;
  retrieve_chunks(store, retriever, batch.inputs, batch.shape, batch.lengths, s, passages, search, exec,
                  [](const ChunkOf&, Index) { return false; });
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
