// Invariant 6: a token's numbers do not depend on what else is computed in the same call. So a sequence has
// the same bits alone and among others, and whether a cache is filled in one piece, in three or token by
// token.
#include <moegpt/routing/gshard_router.hpp>
#include <moegpt/routing/input_jitter.hpp>
#include <moegpt/generate/generate.hpp>

#include "support.hpp"

namespace {

constexpr Config learned{
    .vocab = 23, .context = 19, .dim = 24, .layers = 2, .heads = 3, .hidden = 20, .head_bias = true};
constexpr Config rotary{.vocab = 23,
                        .context = 19,
                        .dim = 24,
                        .layers = 3,
                        .heads = 4,
                        .kv_heads = 2,
                        .head_dim = 8,
                        .hidden = 20,
                        .norm = Norm::rms,
                        .positions = Positions::rotary,
                        .activation = Activation::silu,
                        .gated = true,
                        .tied = true,
                        .dense_first = 1};
template <class T>
using Learned = GPT<learned, NoisyTopKRouter<5, 2>, T>;
template <class T>
using Rotary = GPT<rotary, TopKRouter<4, 2>, T>;

// In storage, with inputs of several blocks of 32 and of parts of one.
constexpr Config stored_config{.vocab = 23,
                               .context = 19,
                               .dim = 72,
                               .layers = 2,
                               .heads = 3,
                               .hidden = 40,
                               .gated = true,
                               .tied = true,
                               .dense_first = 1};
template <class S>
using InStorage = GPT<stored_config, TopKRouter<4, 2>, Stored<float, S>>;

constexpr Config with(Residual residual) {
  Config c = learned;
  c.residual = residual;
  return c;
}
using PostNorm = GPT<with(Residual::post_norm), GShardRouter<5>>;
using NoNorms = GPT<with(Residual::no_norm), InputJitter<TopKRouter<5, 2>>>;

constexpr int V = 23;
constexpr Index L = 19;  // the whole context

template <class Model>
using Scalars = std::vector<typename Model::Scalar>;

const Objective dropping{.dropout = 0.3};  // with a key

// Logits of a batch as training computes them.
template <class Model>
Scalars<Model> trained(const Model& model, Shape shape, const std::vector<int>& ids,
                       std::optional<Key> key = {}) {
  Workspace<Model> work(shape, {}, dropping);
  model.forward({shape, ids, ids}, work, key);
  const auto* logits = work.tape.head.logits[0];
  return {logits, logits + shape.tokens() * V};
}

// Logits of sequences that continue a cache in pieces of at most `piece` tokens, [batch, length, V].
template <class Model>
Scalars<Model> cached(const Model& model, Shape shape, const std::vector<int>& ids, Index piece,
                      std::optional<Key> key = {}) {
  Workspace<Model> work({shape.batch, piece}, {}, dropping, Use::inference);
  typename Model::Cache cache(shape.batch);
  Scalars<Model> all(static_cast<std::size_t>(shape.tokens() * V));
  for (Index first = 0; first < shape.length; first += piece) {
    const Index length = std::min(piece, shape.length - first);
    std::vector<int> part;
    for (Index b = 0; b < shape.batch; ++b)
      part.insert(part.end(), ids.begin() + b * shape.length + first,
                  ids.begin() + b * shape.length + first + length);
    const auto logits = model.logits(part, work, cache, key);
    for (Index b = 0; b < shape.batch; ++b)
      std::copy(logits[b * length], logits[b * length] + length * V,
                all.begin() + (b * shape.length + first) * V);
    REQUIRE(cache.length() == first + length);
  }
  return all;
}

template <class Model>
void require_law_6() {
  const auto model = random_model<Model>(11);
  const Shape shape{3, L};
  const std::vector<int> ids = random_ids(shape.tokens(), V, 12);
  const Scalars<Model> batched = trained(*model, shape, ids);
  REQUIRE(std::all_of(batched.begin(), batched.end(), [](auto x) { return std::isfinite(x); }));
  for (Index b = 0; b < shape.batch; ++b) {
    const std::vector<int> one(ids.begin() + b * L, ids.begin() + (b + 1) * L);
    INFO("sequence " << b);
    REQUIRE(same_bits(trained(*model, {1, L}, one).data(), batched.data() + b * L * V, L * V));
    for (const Index piece : {Index{1}, Index{3}, Index{7}, L}) {
      INFO("pieces of " << piece);
      REQUIRE(same_bits(cached(*model, {1, L}, one, piece).data(), batched.data() + b * L * V, L * V));
    }
  }
  for (const Index piece : {Index{1}, Index{3}, L}) {
    INFO("three sequences in pieces of " << piece);
    REQUIRE(same_bits(cached(*model, shape, ids, piece).data(), batched.data(), std::ssize(batched)));
  }

  // With a key the number of a token, position and sequence, decides its noise and dropout, not its row.
  const Scalars<Model> drawn = trained(*model, shape, ids, Key{14});
  REQUIRE_FALSE(same_bits(drawn.data(), batched.data(), std::ssize(batched)));
  for (const Index piece : {Index{1}, Index{3}, L}) {
    INFO("with a key, three sequences in pieces of " << piece);
    REQUIRE(same_bits(cached(*model, shape, ids, piece, Key{14}).data(), drawn.data(), std::ssize(drawn)));
  }
  const std::vector<int> first(ids.begin(), ids.begin() + L);
  REQUIRE(same_bits(cached(*model, {1, L}, first, 1, Key{14}).data(), drawn.data(), L * V));
}

// Sequences of different lengths go on side by side, each by so many tokens a step, with the bits of the
// whole batch: prompts of 5, 2 and 9 tokens, steps in which some sequences rest, single tokens, and the last
// ones of the context.
template <class Model>
void require_ragged_batches() {
  using T = typename Model::Scalar;
  const Index steps[][3] = {{5, 2, 9}, {1, 1, 1}, {0, 4, 1}, {1, 1, 1}, {7, 0, 7}, {5, 11, 0}};
  const auto model = random_model<Model>(11);
  const Shape shape{3, L};
  const std::vector<int> ids = random_ids(shape.tokens(), V, 12);
  for (const std::optional<Key> key : {std::optional<Key>{}, std::optional<Key>{Key{14}}}) {
    const Scalars<Model> whole = trained(*model, shape, ids, key);
    Workspace<Model> work({3, 11}, {2}, dropping, Use::inference);
    typename Model::Cache cache(3), cache_of_last(3);
    for (const auto& lengths : steps) {
      const Index longest = *std::max_element(lengths, lengths + 3);
      std::vector<int> part(static_cast<std::size_t>(3 * longest), V - 1);  // padding
      for (Index b = 0; b < 3; ++b)
        std::copy_n(ids.begin() + b * L + cache.length(b), lengths[b], part.begin() + b * longest);
      const std::vector<Index> before(cache.lengths().begin(), cache.lengths().end());
      const auto logits = model->logits(part, lengths, work, cache, key);
      for (std::size_t b = 0; b < 3; ++b) {
        const Index row = static_cast<Index>(b) * longest, at = static_cast<Index>(b) * L + before[b];
        REQUIRE(cache.length(static_cast<Index>(b)) == before[b] + lengths[b]);
        REQUIRE(std::memcmp(logits[row], whole.data() + at * V,
                            sizeof(T) * static_cast<std::size_t>(lengths[b] * V)) == 0);
      }
      const auto last = model->last_logits(part, lengths, work, cache_of_last, key);
      REQUIRE(last.count == 3);
      for (Index b = 0; b < 3; ++b)
        if (lengths[b] > 0) REQUIRE(same_bits(last[b], whole.data() + (b * L + cache.length(b) - 1) * V, V));
    }
    REQUIRE(cache.remaining() == 0);
  }
}

template <class Model>
int likeliest(const Model& model, const std::vector<int>& ids) {
  const auto logits = trained(model, {1, std::ssize(ids)}, ids);
  return static_cast<int>(std::max_element(logits.end() - V, logits.end()) - (logits.end() - V));
}

template <class Model>
void require_greedy_recomputation() {
  const auto model = random_model<Model>(13);
  Generator<Model> generator(*model, {.temperature = 0}, Rng(1));
  std::vector<int> ids{3, 1, 4};
  int id = generator.next(ids);
  while (std::ssize(ids) < L) {
    REQUIRE(id == likeliest(*model, ids));
    ids.push_back(id);
    id = generator.next(id);
  }
  REQUIRE(id == likeliest(*model, ids));  // after the last position of the context
}

}  // namespace

TEST_CASE(
    "a sequence's logits have the same bits alone, among others and with a cache: norms of sums, and none") {
  require_law_6<PostNorm>();
  require_law_6<NoNorms>();
}

TEMPLATE_TEST_CASE(
    "a sequence's logits have the same bits alone, among others and with a cache: learned positions", "",
    float, double) {
  require_law_6<Learned<TestType>>();
}

TEMPLATE_TEST_CASE(
    "a sequence's logits have the same bits alone, among others and with a cache: rotary, grouped heads", "",
    float, double) {
  require_law_6<Rotary<TestType>>();
}

TEMPLATE_TEST_CASE(
    "a sequence's logits have the same bits alone, among others and with a cache: weights in panels", "",
    float, BF16, INT8) {
  require_law_6<InStorage<TestType>>();
  require_law_6<Learned<Stored<float, TestType>>>();
  require_ragged_batches<InStorage<TestType>>();
}

TEMPLATE_TEST_CASE("sequences of different lengths continue with the bits of the batch: learned positions",
                   "", float, double) {
  require_ragged_batches<Learned<TestType>>();
}

TEMPLATE_TEST_CASE(
    "sequences of different lengths continue with the bits of the batch: rotary, grouped heads", "", float,
    double) {
  require_ragged_batches<Rotary<TestType>>();
}

TEST_CASE(
    "sequences that share a prompt, in an order chosen anew and without one that ended, have the bits of "
    "each alone") {
  using Model = Rotary<float>;
  const auto model = random_model<Model>(21);
  const auto prompt = random_ids(6, V, 22);
  Workspace<Model> work({3, L}, {}, {}, Use::inference);
  Model::Cache cache(3);
  cache.gather(std::vector<Index>{0});  // one sequence
  model->logits(prompt, work, cache);
  cache.gather(std::vector<Index>{0, 0, 0});
  const std::vector<int> second{1, 2, 3}, third{4, 5, 6}, last{7, 8};
  model->logits(second, work, cache);
  cache.gather(std::vector<Index>{2, 0, 2});  // beams: prompt 3, prompt 1, prompt 3
  model->logits(third, work, cache);
  cache.gather(std::vector<Index>{1, 2});  // prompt 1 5, prompt 3 6
  cache.truncate(0, 7);                    // prompt 1
  const auto found = model->logits(last, work, cache);
  const std::vector<std::vector<int>> texts{{1, 7}, {3, 6, 8}};
  for (Index b = 0; b < 2; ++b) {
    std::vector<int> text = prompt;
    text.insert(text.end(), texts[static_cast<std::size_t>(b)].begin(),
                texts[static_cast<std::size_t>(b)].end());
    const auto alone = trained(*model, {1, std::ssize(text)}, text);
    CHECK(same_bits(found[b], alone.data() + (std::ssize(text) - 1) * V, V));
    CHECK(cache.length(b) == std::ssize(text));
  }
}

TEST_CASE("greedy generation with a cache writes what full recomputation writes") {
  require_greedy_recomputation<Learned<float>>();
  require_greedy_recomputation<Rotary<float>>();
}

TEST_CASE("a cleared cache has forgotten everything") {
  using Model = Rotary<float>;
  const auto model = random_model<Model>(14);
  Workspace<Model> work({1, L}, {}, {}, Use::inference);
  Model::Cache used, fresh;
  model->logits(random_ids(L, V, 15), work, used);
  used.clear();
  const std::vector<int> ids = random_ids(5, V, 16);
  const auto kept = model->logits(ids, work, used);
  const std::vector<float> after(kept[0], kept[0] + 5 * V);
  CHECK(same_bits(after.data(), model->logits(ids, work, fresh)[0], 5 * V));
}

TEST_CASE("a cache counts the positions it holds and knows where each sequence begins") {
  KVCache<learned, double> cache(2);
  CHECK(cache.batch() == 2);
  CHECK(cache.length() == 0);
  CHECK(cache.remaining() == L);
  cache.advance(7);
  CHECK(cache.length() == 7);
  CHECK(cache.remaining() == L - 7);
  cache.clear();
  CHECK(cache.remaining() == L);
  const auto view = cache.at_layer(1);
  CHECK(view.capacity == L);
  CHECK(view.keys.count == 2 * L);
  CHECK(view.keys.data != cache.at_layer(0).keys.data);
}

TEST_CASE("every choice of sequences is gathered in place: copies, cycles, fewer and more than there were") {
  using Cache = KVCache<Config{.vocab = 5, .context = 3, .dim = 2, .layers = 2, .heads = 1}>;
  const Index held[4] = {3, 1, 0, 2};
  const auto content = [](int layer, Index b, Index p) {
    return static_cast<float>(100 * layer + 10 * b + p);
  };
  int wrong = 0;
  for (Index before = 1; before <= 4; ++before)
    for (Index count = 1; count <= 4; ++count)
      for (Index choice = 0; choice < std::pow(before, count); ++choice) {
        Cache cache(4);
        cache.gather(std::vector<Index>(static_cast<std::size_t>(before), 0));
        cache.advance(0, std::span(held, static_cast<std::size_t>(before)));
        for (const int layer : {0, 1}) {
          const auto [keys, values, capacity, firsts] = cache.at_layer(layer);
          wrong += firsts != nullptr;
          for (Index b = 0; b < before; ++b)
            for (Index p = 0; p < held[b]; ++p)
              keys[b * capacity + p][1] = content(layer, b, p),
                                  values[b * capacity + p][0] = -content(layer, b, p);
        }
        std::vector<Index> from;
        for (Index b = 0, rest = choice; b < count; ++b, rest /= before) from.push_back(rest % before);
        cache.gather(from);
        wrong += cache.batch() != count;
        for (Index b = 0; b < count; ++b) {
          const Index f = from[static_cast<std::size_t>(b)];
          wrong += cache.length(b) != held[f];
          for (const int layer : {0, 1}) {
            const auto [keys, values, capacity, firsts] = cache.at_layer(layer);
            wrong += firsts != nullptr;
            for (Index p = 0; p < held[f]; ++p)
              wrong += keys[b * capacity + p][1] != content(layer, f, p) ||
                       values[b * capacity + p][0] != -content(layer, f, p);
          }
        }
      }
  CHECK(wrong == 0);
}

TEST_CASE("a sequence is copied from the same cache or another one, and to itself") {
  using Model = Learned<float>;
  const auto model = random_model<Model>(17);
  Workspace<Model> work({2, L}, {}, {}, Use::inference);
  Model::Cache prompt, cache(2);
  const auto ids = random_ids(5, V, 18);
  const std::vector<int> next{3, 3};
  model->logits(ids, work, prompt);
  cache.copy(prompt, 0, 1);
  CHECK((cache.length(0) == 0 && cache.length(1) == 5 && cache.length() == 5 && cache.remaining() == L - 5));
  cache.copy(cache, 1, 0);
  cache.copy(cache, 0, 0);
  const auto found = model->logits(next, work, cache);
  CHECK(same_bits(found[0], found[1], V));
  std::vector<int> text = ids;
  text.push_back(3);
  CHECK(same_bits(found[0], trained(*model, {1, 6}, text).data() + 5 * V, V));
}

TEST_CASE(
    "a cache rejects sequences that it has not, more than it was made for, and to keep what it does not "
    "hold") {
  KVCache<learned> cache(2), other(3);
  cache.advance(0, std::vector<Index>{3, 1});
  CHECK(contains(refusal([&] { cache.length(2); }), "KVCache::length: sequence 2, expected 0 .. 1"));
  CHECK(contains(refusal([&] { cache.truncate(-1, 0); }), "sequence -1, expected 0 .. 1"));
  CHECK(contains(refusal([&] { cache.truncate(1, 2); }), "length 2 for sequence 1, expected 0 .. 1"));
  CHECK(contains(refusal([&] { cache.truncate(1, -1); }), "length -1"));
  CHECK(contains(refusal([&] { cache.copy(other, 3, 0); }), "KVCache::copy: sequence 3, expected 0 .. 2"));
  CHECK(contains(refusal([&] { cache.copy(other, 0, 2); }), "KVCache::copy: sequence 2, expected 0 .. 1"));
  CHECK(contains(refusal([&] { cache.gather(std::vector<Index>{0, 2}); }),
                 "KVCache::gather: sequence 2, expected 0 .. 1"));
  CHECK(contains(refusal([&] { cache.gather({}); }), "0 sequences, expected 1 .. 2"));
  CHECK(
      contains(refusal([&] { cache.gather(std::vector<Index>{0, 0, 0}); }), "3 sequences, expected 1 .. 2"));
  CHECK(contains(refusal([&] { cache.advance(0, std::vector<Index>{1}); }), "1 lengths for 2 sequences"));
  CHECK(contains(refusal([&] { cache.advance(0, std::vector<Index>{0, L}); }),
                 "sequence 1 of the cache holds 1 of 19"));
  CHECK((cache.length(0) == 3 && cache.length(1) == 1 && cache.batch() == 2));  // as it was
}

TEST_CASE("lengths of logits that are not one for each sequence, or more than its ids, are rejected") {
  using Model = Learned<float>;
  const auto model = random_model<Model>(17);
  Workspace<Model> work({2, L}, {}, {}, Use::inference);
  Model::Cache cache(2);
  const auto ids = random_ids(6, V, 1);
  const auto says = [&](std::vector<Index> lengths) {
    return refusal([&] { model->logits(ids, lengths, work, cache); });
  };
  CHECK(contains(says({3}), "1 lengths for 2 sequences"));
  CHECK(contains(says({3, 4}), "sequence 1 has length 4, expected 0 .. 3"));
  CHECK(says({3, 0}).empty());
}

TEST_CASE("a cache has room for key/value heads only") {
  CHECK(KVCache<rotary>::Dkv == 16);
  CHECK(KVCache<learned>::Dkv == 24);
}

TEST_CASE("a cache rejects more than its room and leaves its content as it was") {
  using Model = Learned<float>;
  const auto model = random_model<Model>(17);
  Workspace<Model> work({1, L}, {}, {}, Use::inference);
  Model::Cache cache;
  model->logits(random_ids(L - 2, V, 18), work, cache);
  CHECK(contains(refusal([&] { model->logits(random_ids(3, V, 19), work, cache); }),
                 "the cache holds 17 of 19 positions, the model's context: no room for 3 more"));
  CHECK(cache.length() == L - 2);
  model->logits(random_ids(2, V, 19), work, cache);
  CHECK(cache.remaining() == 0);
}

TEST_CASE("logits that throw leave the cache as it was, and the next call has the bits of one undisturbed") {
  using Model = Learned<float>;
  const auto model = random_model<Model>(17);
  Workspace<Model> work({1, L}, {}, {}, Use::inference);
  Model::Cache cache, undisturbed;
  const auto start = random_ids(5, V, 18), next = random_ids(2, V, 19);
  const auto copy = [](In<V, float> logits) {
    return std::vector<float>(logits[0], logits[0] + logits.count * V);
  };
  model->logits(start, work, undisturbed);
  const std::vector<float> expected = copy(model->logits(next, work, undisturbed));
  model->logits(start, work, cache);
  float& weight = model->trunk.norm.weight[7];
  const float held = std::exchange(weight, std::numeric_limits<float>::quiet_NaN());
  CHECK_THROWS_AS(model->logits(next, work, cache), std::runtime_error);
  weight = held;
  CHECK_THROWS_AS(model->logits(std::vector<int>{1, V}, work, cache), std::invalid_argument);
  CHECK(cache.length() == 5);
  CHECK(copy(model->logits(next, work, cache)) == expected);
}

TEST_CASE("ids that do not divide among the sequences of a cache are rejected") {
  using Model = Learned<float>;
  const auto model = random_model<Model>(17);
  Workspace<Model> work({2, L}, {}, {}, Use::inference);
  Model::Cache cache(2);
  CHECK(
      contains(refusal([&] { model->logits(random_ids(5, V, 1), work, cache); }), "5 ids for 2 x 2 tokens"));
  CHECK(contains(refusal([&] { model->logits({}, work, cache); }), "2 sequences of 0 tokens"));
}

TEST_CASE("a cache of no sequences is rejected") {
  CHECK(contains(refusal([&] { KVCache<learned> cache(0); }), "0 sequences"));
}

TEST_CASE("a cache rejects more sequences than can be, and to advance back or beyond the context") {
  using Cache = KVCache<Config{.vocab = 5, .context = 4, .dim = 4, .layers = 1, .heads = 1}>;
  CHECK(contains(refusal([] { Cache cache(Index{1} << 62); }), "at most 2147483648 tokens"));
  Cache cache(2);
  cache.advance(3);
  CHECK(contains(refusal([&] { cache.advance(2); }), "no room for 2 more, expected 0 .. 1"));
  CHECK(contains(refusal([&] { cache.advance(-1); }), "no room for -1 more"));
  CHECK(cache.length() == 3);
}

TEST_CASE("a cache that is resized keeps its first sequences, and new ones are empty") {
  Learned<float>::Cache cache(3);
  for (Index b = 0; b < 3; ++b) CHECK(cache.length(b) == 0);
  cache.advance(4);
  cache.resize(1);
  CHECK(cache.batch() == 1);
  CHECK(cache.length(0) == 4);
  cache.resize(3);
  CHECK(cache.length(0) == 4);
  CHECK((cache.length(1) == 0 && cache.length(2) == 0));
  CHECK(contains(refusal([&] { cache.resize(0); }), "KVCache::resize to 0 sequences, expected 1 .. 3"));
  CHECK(contains(refusal([&] { cache.resize(4); }), "KVCache::resize to 4 sequences, expected 1 .. 3"));
}
