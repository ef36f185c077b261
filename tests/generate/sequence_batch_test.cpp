// Invariant 6 in generation: bits of a sequence's logits are those that it has alone.
#include <moegpt/routing/router_around.hpp>
#include <moegpt/generate/sequence_batch.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>

#include "support.hpp"

#include <cstring>

namespace {

constexpr Config rotary{.vocab = 11,
                        .context = 9,
                        .dim = 16,
                        .layers = 3,
                        .heads = 4,
                        .kv_heads = 2,
                        .hidden = 12,
                        .norm = Norm::rms,
                        .positions = Positions::rotary,
                        .activation = Activation::silu,
                        .gated = true,
                        .tied = true,
                        .dense_first = 1};
using Rotary = GPT<rotary, TopKRouter<4, 2>>;
using Noisy = GPT<config, NoisyTopKRouter<4, 2>>;

using Row = std::vector<float>;
template <class Logits>
Row row(const Logits& logits, Index b) {
  return {logits[b], logits[b] + logits.dim};
}
bool same_bits(const Row& a, const Row& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The logits after each id from the last of the prompt on, of a sequence by itself.
template <class Model>
std::vector<Row> alone(const Model& model, const std::vector<int>& ids, Index prompt,
                       std::optional<Key> noise) {
  SequenceBatch<Model> sequences(model, {.noise = noise});
  std::vector<Row> all{row(sequences.read(0, std::span(ids).first(static_cast<std::size_t>(prompt))), 0)};
  for (Index i = prompt; i < std::ssize(ids); ++i)
    all.push_back(row(sequences.step(std::span(ids).subspan(static_cast<std::size_t>(i), 1)), 0));
  return all;
}

// Sequences of three prompts and as many steps that contexts slide, in every order, with each piece.
template <class Model>
void require_bits_of_alone(std::optional<Key> noise) {
  const auto model = random_model<Model>(3);
  const Index prompts[] = {5, 1, 12}, steps = 14;
  std::vector<std::vector<int>> ids;
  std::vector<std::vector<Row>> expected;
  Rng rng(6);
  for (const Index prompt : prompts) {
    ids.emplace_back();
    for (Index i = 0; i < prompt + steps; ++i) ids.back().push_back(static_cast<int>(rng.below(7)));
    expected.push_back(alone(*model, ids.back(), prompt, noise));
  }
  for (const int threads : {1, 2})
    for (const Index piece : {0, 1, 3})
      for (const std::vector<std::size_t>& order :
           {std::vector<std::size_t>{0, 1, 2}, std::vector<std::size_t>{2, 0, 1},
            std::vector<std::size_t>{1, 2}}) {
        SequenceBatch<Model> sequences(*model,
                                       {.batch = 3, .piece = piece, .exec = {threads}, .noise = noise});
        const Index count = std::ssize(order);
        sequences.resize(0);
        std::vector<int> next(order.size());
        for (Index b = 0; b < count; ++b) {
          const std::size_t s = order[static_cast<std::size_t>(b)];
          sequences.resize(b + 1);
          const auto first = sequences.read(b, std::span(ids[s]).first(static_cast<std::size_t>(prompts[s])));
          REQUIRE(same_bits(row(first, 0), expected[s][0]));
        }
        for (Index i = 0; i < steps; ++i) {
          for (std::size_t b = 0; b < order.size(); ++b)
            next[b] = ids[order[b]][static_cast<std::size_t>(prompts[order[b]] + i)];
          const auto logits = sequences.step(next);
          for (std::size_t b = 0; b < order.size(); ++b) {
            INFO("threads " << threads << ", piece " << piece << ", sequence " << order[b] << ", step " << i);
            REQUIRE(same_bits(row(logits, static_cast<Index>(b)),
                              expected[order[b]][static_cast<std::size_t>(i + 1)]));
          }
        }
      }
}

}  // namespace

TEST_CASE("sequences side by side have the bits of each alone, in any order and piece, by any threads") {
  require_bits_of_alone<Model>({});
  require_bits_of_alone<Rotary>({});
  require_bits_of_alone<Noisy>({});
}

TEST_CASE("so have those with a noise key, which is the same for each sequence") {
  require_bits_of_alone<Noisy>(Key{5});
  const auto model = random_model<Noisy>(3);
  const std::vector<int> ids{1, 2, 3};
  CHECK_FALSE(same_bits(alone(*model, ids, 3, Key{5})[0], alone(*model, ids, 3, {})[0]));
}

TEST_CASE("sequences that are copied, ordered, removed and added keep their bits") {
  const auto model = random_model();
  SequenceBatch<Model> sequences(*model, {.batch = 4, .piece = 2});
  sequences.resize(2);
  const std::vector<int> a{1, 2, 3}, b{4, 5}, next{6, 0, 1, 2};
  sequences.read(0, a), sequences.read(1, b);
  sequences.gather(std::vector<Index>{1, 0, 1, 0});
  const auto with = [](std::vector<int> ids, int id) {
    ids.push_back(id);
    return ids;
  };
  const std::vector<int>* from[] = {&b, &a, &b, &a};
  {
    const auto logits = sequences.step(next);
    for (std::size_t i = 0; i < 4; ++i)
      CHECK(same_bits(row(logits, static_cast<Index>(i)),
                      alone(*model, with(*from[i], next[i]), 1, {}).back()));
  }
  sequences.remove(0);  // sequence 3 takes its number
  CHECK(sequences.batch() == 3);
  CHECK(std::vector<int>(sequences.ids(0).begin(), sequences.ids(0).end()) == std::vector<int>{1, 2, 3, 2});
  sequences.resize(4);
  CHECK(sequences.ids(3).empty());
  sequences.read(3, a);
  const auto logits = sequences.step(std::vector<int>{5, 5, 5, 5});
  CHECK(same_bits(row(logits, 0), alone(*model, {1, 2, 3, 2, 5}, 1, {}).back()));
  CHECK(same_bits(row(logits, 1), alone(*model, {1, 2, 3, 0, 5}, 1, {}).back()));
  CHECK(same_bits(row(logits, 2), alone(*model, {4, 5, 1, 5}, 1, {}).back()));
  CHECK(same_bits(row(logits, 3), alone(*model, {1, 2, 3, 5}, 1, {}).back()));
  for (int i = 0; i < 4; ++i) sequences.remove(0);
  CHECK(sequences.batch() == 0);
  sequences.resize(1);
  CHECK(sequences.ids(0).empty());
}

TEST_CASE("prompts that share their beginning have the bits that they have alone") {
  const auto model = random_model();
  SequenceBatch<Model> sequences(*model, {.batch = 5});
  // The third differs from the one before in the middle, the fourth at the beginning, the last ends before.
  std::vector<int> prompts[] = {{1, 2, 3, 4, 5}, {1, 2, 3, 4, 5}, {1, 2, 6, 4, 5}, {3, 2, 6, 4, 5}, {3, 2}};
  for (Index b = 0; b < 5; ++b) {
    const auto& prompt = prompts[b];
    CAPTURE(b);
    CHECK(same_bits(row(sequences.read(b, prompt), 0), alone(*model, prompt, std::ssize(prompt), {})[0]));
  }
  const auto logits = sequences.step(std::vector<int>{6, 6, 6, 6, 6});  // attends to what was kept of each
  for (Index b = 0; b < 5; ++b) {
    auto& ids = prompts[b];
    ids.push_back(6);
    CAPTURE(b);
    CHECK(same_bits(row(logits, b), alone(*model, ids, std::ssize(ids) - 1, {}).back()));
  }
}

TEST_CASE("the beginning that a prompt shares with the one before it is not read again") {
  const auto model = random_model();
  SequenceBatch<Model> sequences(*model, {.batch = 4});
  const std::vector<int> prompt{1, 2, 3, 4}, longer{1, 2, 3, 4, 5}, other{2, 2, 3, 4};
  const Row first = row(sequences.read(0, prompt), 0), more = alone(*model, longer, 5, {})[0],
            before = alone(*model, other, 4, {})[0];
  for (int i = 0; i < config.dim; ++i)
    model->trunk.position_embedding.weight[i] += 1;  // of what is not read again
  CHECK(same_bits(row(sequences.read(1, prompt), 0), first));
  CHECK(same_bits(row(sequences.read(2, longer), 0), more));
  const Row last = row(sequences.read(3, other), 0);  // shares nothing: it is read with the changed weights
  CHECK_FALSE(same_bits(last, before));
  CHECK(same_bits(last, alone(*model, other, 4, {})[0]));
}

// Both prompts begin alike, but what follows competes with it.
template <class Model>
void require_whole_prompts(double capacity_factor) {
  const auto model = random_model<Model>();
  model->options.capacity_factor = capacity_factor;
  SequenceBatch<Model> sequences(*model, {.batch = 2});
  const std::vector<int> prompts[] = {{1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 4, 4, 4}};
  for (Index b = 0; b < 2; ++b) {
    const auto& prompt = prompts[b];
    CHECK(same_bits(row(sequences.read(b, prompt), 0), alone(*model, prompt, std::ssize(prompt), {})[0]));
  }
}
// A wrapper that says nothing of what it contains.
struct Unnamed : RouterAround<AllowNonCausal<ExpertChoiceRouter<4, 2>>> {};
TEST_CASE("where tokens compete for experts each prompt is read whole, whatever was read before") {
  require_whole_prompts<Model>(0.5);
  require_whole_prompts<GPT<config, AllowNonCausal<ExpertChoiceRouter<4, 2>>>>(0);
  require_whole_prompts<GPT<config, Unnamed>>(0);
}

TEST_CASE("a sequences refuses sequences, ids and pieces that it does not have") {
  const auto model = random_model();
  SequenceBatch<Model> sequences(*model, {.batch = 2});
  const std::vector<int> one{1}, beyond{1, 7};
  CHECK(
      contains(refusal([&] { sequences.read(2, one); }), "SequenceBatch::read: sequence 2, expected 0 .. 1"));
  CHECK(contains(refusal([&] { sequences.step(one); }), "SequenceBatch::step got 1 ids for 2 sequences"));
  CHECK(contains(refusal([&] { sequences.step(beyond); }), "token id 7, expected 0 .. 6"));
  CHECK(contains(refusal([&] { sequences.resize(3); }), "to 3 sequences, expected 0 .. 2"));
  CHECK(contains(refusal([&] { sequences.gather(std::vector<Index>{0, 2}); }),
                 "SequenceBatch::gather: sequence 2"));
  CHECK(
      contains(refusal([&] { SequenceBatch<Model>(*model, {.piece = -1}); }), "the piece of a prompt is -1"));
  CHECK(contains(refusal([&] { SequenceBatch<Model>(*model, {.batch = 0}); }), "0 sequences"));
}
