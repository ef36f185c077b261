#include <moegpt/generate/generator.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>

#include "support.hpp"

TEST_CASE("when the context is full the newer half is read again at the first positions") {
  const auto model = random_model();
  Generator<Model> generator(*model, {.temperature = 0}, Rng(1));
  const std::vector<int> ids{3, 1, 4, 1, 5, 2, 6, 0};
  generator.next(ids);
  Generator<Model> fresh(*model, {.temperature = 0}, Rng(1));
  const std::vector<int> rest{5, 2, 6, 0, 3};
  CHECK(generator.next(3) == fresh.next(rest));
  CHECK(generator.next(2) == fresh.next(2));  // and both go on alike
}

TEST_CASE("a long piece read into a full context keeps its own tokens before older ones") {
  const auto model = random_model();
  Generator<Model> generator(*model, {.temperature = 0}, Rng(1)), fresh(*model, {.temperature = 0}, Rng(1));
  generator.next(std::vector<int>{3, 1, 4, 1, 5});
  const std::vector<int> long_piece{6, 5, 4, 3, 2, 1}, expected{1, 5, 6, 5, 4, 3, 2, 1};
  CHECK(generator.next(long_piece) == fresh.next(expected));
}

TEST_CASE("a refused id leaves a generator as it was") {
  const auto model = random_model();
  Generator<Model> generator(*model, {.temperature = 0}, Rng(1)), other(*model, {.temperature = 0}, Rng(1));
  CHECK(generator.next(std::vector<int>{1, 2}) == other.next(std::vector<int>{1, 2}));
  CHECK(contains(refusal([&] { generator.next(7); }), "token id 7, expected 0 .. 6"));
  int id = 3;
  for (int i = 0; i < 20; ++i) {  // the context slides on the way
    CHECK(contains(refusal([&] { generator.next(-1); }), "token id -1, expected 0 .. 6"));
    const int next = generator.next(id);
    CHECK(next == other.next(id));
    id = next;
  }
}

TEST_CASE("a generator refuses to continue nothing") {
  const auto model = random_model();
  Generator<Model> generator(*model, {}, Rng(1));
  CHECK(contains(refusal([&] { generator.next(std::span<const int>{}); }), "the prompt has no tokens"));
}

namespace {

struct Text {
  std::vector<int> ids;
  std::vector<double> log_probabilities, likeliest;
  Finish finish = Finish::no;
  bool operator==(const Text&) const = default;
};

// The texts of all requests, by number.
template <class Model>
std::vector<Text> texts(const Model& model, const std::vector<Request>& requests, const Decoding& how) {
  BatchGenerator<Model> batch(model, how);
  for (const Request& r : requests) batch.add(r);
  std::vector<Text> all(requests.size());
  while (!batch.done()) {
    const auto tokens = batch.step();
    REQUIRE(std::ssize(tokens) <= how.batch);
    REQUIRE_FALSE(tokens.empty());
    for (const Drawn& t : tokens) {
      Text& text = all.at(static_cast<std::size_t>(t.sequence));
      REQUIRE(text.finish == Finish::no);
      text.ids.push_back(t.id);
      text.log_probabilities.push_back(t.log_probability);
      for (const IdProbability& p : t.likeliest)
        text.likeliest.insert(text.likeliest.end(), {double(p.id), p.log_probability});
      text.finish = t.finish;
    }
  }
  return all;
}

std::vector<Request> mixed_requests() {
  return {{.ids = {1, 2, 3}, .tokens = 20, .seed = 1},
          {.ids = {1, 2, 3}, .tokens = 9, .sampling = {.temperature = 2, .log_probabilities = 2}, .seed = 2},
          {.ids = {4}, .tokens = 30, .sampling = {.frequency_penalty = 0.5}, .seed = 3, .stop_ids = {0}},
          {.ids = {6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4}, .tokens = 1, .sampling = {.log_probabilities = 0}},
          {.ids = {1, 2, 3, 4}, .tokens = 12, .sampling = {.top_k = 3, .repetition_penalty = 1.5}, .seed = 1},
          {.ids = {2, 2},
           .tokens = 17,
           .sampling = {.temperature = 0, .log_probabilities = 1},
           .stop_ids = {9, 4}}};
}

}  // namespace

template <class Model>
void require_texts_of_alone() {
  const auto model = random_model<Model>(2);
  const std::vector<Request> requests = mixed_requests();
  for (const std::optional<Key>& noise : {std::optional<Key>{}, std::optional<Key>{Key{5}}}) {
    std::vector<Text> expected;
    for (const Request& r : requests) expected.push_back(texts(*model, {r}, {.batch = 1, .noise = noise})[0]);
    for (const int threads : {1, 2})
      for (const Index batch : {2, 3, 8})
        CHECK(texts(*model, requests,
                    {.batch = batch, .piece = batch - 1, .exec = {threads}, .noise = noise}) == expected);
    const std::vector<Request> backwards(requests.rbegin(), requests.rend());
    std::vector<Text> found = texts(*model, backwards, {.batch = 4, .noise = noise});
    std::reverse(found.begin(), found.end());
    CHECK(found == expected);
  }
}
TEST_CASE("a text of a batch has the bits that it has alone, in any order, piece and number of threads") {
  require_texts_of_alone<GPT<config, NoisyTopKRouter<4, 2>>>();
  require_texts_of_alone<GPT<config>>();
}

TEST_CASE("a batch of one writes what a generator writes, its log-probabilities included") {
  const auto model = random_model();
  const Sampling sampling{.temperature = 1.5, .presence_penalty = 0.3, .log_probabilities = 2};
  const Text text = texts(*model, {{.ids = {1, 2}, .tokens = 25, .sampling = sampling, .seed = 4}}, {})[0];
  Generator<Model> generator(*model, sampling, Rng{Key{4}.with(Purpose::sampling)});
  int id = generator.next(std::vector<int>{1, 2});
  for (std::size_t i = 0; i < 25; ++i) {
    CHECK(text.ids[i] == id);
    CHECK(text.log_probabilities[i] == generator.last().log_probability);
    REQUIRE(generator.last().likeliest.size() == 2);
    CHECK(text.likeliest[4 * i] == generator.last().likeliest[0].id);
    id = generator.next(id);
  }
}

TEST_CASE("a text ends with a stop id, with its last token, or when its caller stops it") {
  const auto model = random_model();
  const Text whole = texts(*model, {{.ids = {1}, .tokens = 12, .seed = 3}}, {})[0];
  CHECK(whole.finish == Finish::length);
  CHECK(whole.ids.size() == 12);
  const int last = whole.ids[5];
  const auto first = std::find(whole.ids.begin(), whole.ids.end(), last) - whole.ids.begin();
  const Text stopped = texts(*model, {{.ids = {1}, .tokens = 12, .seed = 3, .stop_ids = {last}}}, {})[0];
  CHECK(stopped.finish == Finish::stop);
  CHECK(stopped.ids == std::vector<int>(whole.ids.begin(), whole.ids.begin() + first + 1));

  BatchGenerator<Model> batch(*model, {.batch = 2});
  for (std::uint64_t seed = 1; seed <= 4; ++seed) batch.add({.ids = {1}, .tokens = 12, .seed = seed});
  CHECK(batch.step().size() == 2);
  batch.stop(0), batch.stop(2), batch.stop(2), batch.stop(99);
  std::vector<Index> now;
  for (const Drawn& t : batch.step()) now.push_back(t.sequence);
  CHECK(now == std::vector<Index>{1, 3});  // 2 never began
  Text third;
  while (!batch.done())
    for (const Drawn& t : batch.step())
      if (t.sequence == 3) third.ids.push_back(t.id);
  CHECK(third.ids.size() == 11);
  CHECK(batch.step().empty());
  CHECK(batch.add({.ids = {1}}) == 4);
  CHECK_FALSE(batch.done());
}

TEST_CASE("a request that makes no sense is refused, and the batch goes on") {
  const auto model = random_model();
  BatchGenerator<Model> batch(*model);
  CHECK(contains(refusal([&] { batch.add({}); }), "the prompt has no tokens"));
  CHECK(contains(refusal([&] { batch.add({.ids = {7}}); }), "token id 7, expected 0 .. 6"));
  CHECK(contains(refusal([&] { batch.add({.ids = {1}, .tokens = 0}); }), "a text of 0 tokens"));
  CHECK(contains(refusal([&] { batch.add({.ids = {1}, .sampling = {.top_p = 2}}); }), "top_p is 2"));
  CHECK(contains(refusal([&] { batch.add({.ids = {1}, .sampling = {.bias = {{7, 1}}}}); }),
                 "a logit bias is for id 7, expected 0 .. 6"));
  CHECK(contains(refusal([&] { batch.add({.ids = {1}, .sampling = {.banned = {7}}}); }), "a banned id is 7"));
  CHECK(batch.done());
  CHECK(batch.add({.ids = {1}}) == 0);
  CHECK(batch.step().size() == 1);
}

TEST_CASE("penalties of a generator count the ids that it drew and was given back") {
  const auto model = random_model();
  // an enormous presence penalty: no id is drawn twice before all were
  Generator<Model> generator(*model, {.temperature = 0, .presence_penalty = 1e6}, Rng(1));
  std::vector<int> ids{generator.next(3)};
  for (int i = 0; i < 6; ++i) ids.push_back(generator.next(ids.back()));
  std::sort(ids.begin(), ids.end());
  CHECK(ids == std::vector<int>{0, 1, 2, 3, 4, 5, 6});
}
