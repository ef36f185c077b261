// Generation of encoder-decoder models: each sequence has a source of its own.
#include <moegpt/generate/beam_search.hpp>

#include "support.hpp"

namespace {

constexpr Config source_config{
    .vocab = 7, .context = 6, .dim = 8, .layers = 2, .heads = 2, .hidden = 5, .mask = Mask::full};
constexpr Config target_config{.vocab = 9, .context = 5, .dim = 12, .layers = 2, .heads = 3, .hidden = 10};
using Pairs = EncoderDecoder<source_config, TopKRouter<3, 2>, target_config, TopKRouter<4, 2>>;

const std::vector<std::vector<int>> sources{{1, 2, 3, 4, 5, 6}, {0, 3}, {5}, {6, 2, 2, 1}};
const std::vector<std::vector<int>> targets{
    {1, 2, 3, 4, 5}, {8, 7, 0, 1, 1}, {0, 4, 4, 4, 2}, {5, 5, 6, 1, 3}};

// Logits [4, 5, V] of the batched forward.
std::vector<float> batched(const Pairs& model) {
  PairBatch batch{{{4, 6}}, {{4, 5}}};
  for (std::size_t b = 0; b < 4; ++b) {
    batch.source.inputs.insert(batch.source.inputs.end(), sources[b].begin(), sources[b].end());
    batch.source.inputs.resize(6 * (b + 1));
    batch.source.lengths.push_back(std::ssize(sources[b]));
    batch.target.inputs.insert(batch.target.inputs.end(), targets[b].begin(), targets[b].end());
  }
  batch.target.targets = batch.target.inputs;
  Pairs::Workspace work({4, 6}, {4, 5}, {}, {}, Use::inference);
  model.forward(batch, work);
  const auto& logits = work.decoder.tape.head.logits;
  return {logits[0], logits[0] + 4 * 5 * Pairs::V};
}

bool same(const float* found, const std::vector<float>& all, std::size_t sequence, std::size_t token) {
  return std::memcmp(found, &all[(5 * sequence + token) * Pairs::V], sizeof(float) * Pairs::V) == 0;
}

std::vector<int> continued(const Pairs& model, std::size_t sequence, const Sampling& sampling, int tokens) {
  Generator<Pairs> generator(model, sampling, Rng{Key{sequence + 1}.with(Purpose::sampling)});
  generator.read_source(sources[sequence]);
  std::vector<int> ids{generator.next(0)};
  while (std::ssize(ids) < tokens) ids.push_back(generator.next(ids.back()));
  return ids;
}

}  // namespace

TEST_CASE(
    "sequences with sources of their own have the bits of the batched forward, side by side and moved") {
  const auto model = random_model<Pairs>();
  const std::vector<float> expected = batched(*model);
  for (const Index piece : {0, 2}) {
    SequenceBatch<Pairs> sequences(*model, {.batch = 4, .piece = piece, .exec = {.threads = 2}});
    for (std::size_t b = 0; b < 4; ++b) {
      sequences.read_source(static_cast<Index>(b), sources[b]);
      CHECK(same(sequences.read(static_cast<Index>(b), std::span(targets[b]).first(2))[0], expected, b, 1));
    }
    std::vector<std::size_t> at{0, 1, 2, 3};
    const auto step = [&](std::size_t token) {
      std::vector<int> ids;
      for (const std::size_t b : at) ids.push_back(targets[b][token]);
      const auto logits = sequences.step(ids);
      for (std::size_t i = 0; i < at.size(); ++i)
        CHECK(same(logits[static_cast<Index>(i)], expected, at[i], token));
    };
    step(2);
    const Index order[] = {3, 1, 0};
    sequences.gather(order);
    at = {3, 1, 0};
    step(3);
    sequences.remove(0);  // the last takes its place
    at = {0, 1};
    step(4);
    sequences.clear(1);  // the source remains
    CHECK(same(sequences.read(1, std::span(targets[1]).first(1))[0], expected, 1, 0));
    sequences.read_source(1, sources[2]);  // another source in its place
    CHECK(same(sequences.read(1, std::span(targets[2]).first(3))[0], expected, 2, 2));
  }
}

TEST_CASE("requests with sources give the tokens of each source alone, greedy and sampled") {
  const auto model = random_model<Pairs>();
  for (const Sampling& sampling :
       {Sampling{.temperature = 0}, Sampling{.top_p = 0.9, .presence_penalty = 0.2}}) {
    BatchGenerator<Pairs> generator(*model, {.batch = 3});
    for (std::size_t i = 0; i < 4; ++i)
      generator.add(
          {.ids = {0}, .tokens = 8, .sampling = sampling, .seed = i + 1, .source = sources[i]});  // > context
    std::vector<std::vector<int>> found(4);
    while (!generator.done())
      for (const Drawn& token : generator.step())
        found[static_cast<std::size_t>(token.sequence)].push_back(token.id);
    for (std::size_t i = 0; i < 4; ++i) CHECK(found[i] == continued(*model, i, sampling, 8));
  }
}

TEST_CASE("beams of a source have the log-probabilities of the batched forward, and one beam is greedy") {
  const auto model = random_model<Pairs>();
  const auto one = beam_search(*model, std::vector{0}, {.beams = 1, .tokens = 4, .source = sources[3]});
  REQUIRE(one.size() == 1);
  CHECK(one[0].ids == continued(*model, 3, {.temperature = 0}, 4));
  for (const Beam& beam :
       beam_search(*model, std::vector{0}, {.beams = 3, .tokens = 4, .source = sources[0]})) {
    PairBatch batch{{{1, 6}, sources[0]}, {{1, 4}, {0}, beam.ids}};
    batch.target.inputs.insert(batch.target.inputs.end(), beam.ids.begin(), beam.ids.end() - 1);
    Pairs::Workspace work({1, 6}, {1, 4});
    CHECK(-4 * model->forward(batch, work).cross_entropy == Approx(beam.log_probability).epsilon(1e-5));
  }
}

TEST_CASE("a sequence without a source, an empty source and one beyond the encoder's context are refused") {
  const auto model = random_model<Pairs>();
  SequenceBatch<Pairs> sequences(*model, {.batch = 2});
  sequences.read_source(0, sources[0]);
  CHECK(contains(refusal([&] { sequences.read(1, std::vector{1}); }),
                 "sequence 1 has no source: call read_source first"));
  CHECK(contains(refusal([&] { sequences.step(std::vector{1, 1}); }), "sequence 1 has no source"));
  CHECK(refusal([&] { sequences.read_source(0, {}); }) != "");
  CHECK(refusal([&] { sequences.read_source(0, std::vector<int>(7, 1)); }) != "");
  CHECK(refusal([&] { sequences.read_source(2, sources[0]); }) != "");
  sequences.resize(0);
  sequences.resize(1);
  CHECK(contains(refusal([&] { sequences.read(0, std::vector{1}); }), "sequence 0 has no source"));
  BatchGenerator<Pairs> generator(*model);
  CHECK(contains(refusal([&] { generator.add({.ids = {0}}); }), "a request with a source of 0 ids"));
  CHECK(contains(refusal([&] { beam_search(*model, std::vector{0}); }), "a search with a source of 0 ids"));
  const auto gpt = random_model();
  BatchGenerator<Model> plain(*gpt);
  CHECK(contains(refusal([&] { plain.add({.ids = {0}, .source = {1}}); }), "other models read none"));
}
