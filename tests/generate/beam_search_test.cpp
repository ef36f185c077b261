#include <moegpt/generate/beam_search.hpp>

#include "support.hpp"

namespace {

constexpr Config tiny{.vocab = 4, .context = 5, .dim = 8, .layers = 2, .heads = 2, .hidden = 8};
using Tiny = GPT<tiny, TopKRouter<3, 2>>;

// Weights of the head that make distributions far from uniform.
std::unique_ptr<Tiny> peaked(std::uint64_t seed) {
  auto model = random_model<Tiny>(seed);
  for (float& w : model->head.weight) w *= 4;
  return model;
}

// Every continuation that ends by the stop id 3 or has `tokens` ids, by recursion without a cache.
void extend(const Tiny& model, const std::vector<int>& prompt, const Beam& beam, const BeamSearch& search,
            std::vector<Beam>& all) {
  std::vector<int> ids = prompt;
  ids.insert(ids.end(), beam.ids.begin(), beam.ids.end());
  SequenceBatch<Tiny> sequences(model);
  const auto logits = sequences.read(0, ids);
  double sum = 0;
  for (int id = 0; id < 4; ++id) sum += std::exp(static_cast<double>(logits[0][id]));
  std::vector<Beam> longer;
  for (int id = 0; id < 4; ++id) {
    Beam next = beam;
    next.ids.push_back(id);
    next.log_probability += static_cast<double>(logits[0][id]) - std::log(sum);
    next.score =
        next.log_probability / std::pow((5 + static_cast<double>(next.ids.size())) / 6, search.alpha);
    next.finish = id == 3                                 ? Finish::stop
                  : std::ssize(next.ids) == search.tokens ? Finish::length
                                                          : Finish::no;
    longer.push_back(next);
  }
  for (const Beam& next : longer)
    if (next.finish != Finish::no)
      all.push_back(next);
    else
      extend(model, prompt, next, search, all);
}

bool same(const std::vector<Beam>& a, const std::vector<Beam>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Beam& x, const Beam& y) {
    return x.ids == y.ids && x.score == y.score && x.log_probability == y.log_probability &&
           x.finish == y.finish;
  });
}

}  // namespace

TEST_CASE("a search that is wide enough finds the best of all continuations, in their order") {
  const std::vector<int> prompt{1};
  for (const std::uint64_t seed : {1u, 2u, 3u})
    for (const double alpha : {0.0, 0.6, 2.0}) {
      const auto model = peaked(seed);
      const BeamSearch search{
          .beams = 27, .tokens = 4, .alpha = alpha, .stop_ids = {3, 3, 9}};  // at most 27 go on
      std::vector<Beam> all;
      extend(*model, prompt, {}, search, all);
      REQUIRE(all.size() == 1 + 3 + 9 + 27 + 81);
      std::stable_sort(all.begin(), all.end(),
                       [](const Beam& a, const Beam& b) { return a.score > b.score; });
      const std::vector<Beam> found = beam_search(*model, prompt, search);
      REQUIRE(found.size() == 27);
      for (std::size_t i = 0; i < found.size(); ++i) {
        INFO("seed " << seed << ", alpha " << alpha << ", beam " << i);
        CHECK(found[i].ids == all[i].ids);
        CHECK(found[i].log_probability == Approx(all[i].log_probability).epsilon(1e-5));
        CHECK(found[i].score == Approx(all[i].score).epsilon(1e-5));
        CHECK(found[i].finish == all[i].finish);
      }
    }
}

TEST_CASE("one beam is greedy sampling, also beyond the context") {
  const auto model = peaked(5);
  const std::vector<int> prompt{2, 0};
  const auto beams = beam_search(*model, prompt, {.beams = 1, .tokens = 12});
  REQUIRE(beams.size() == 1);
  Generator<Tiny> generator(*model, {.temperature = 0}, Rng(1));
  int id = generator.next(prompt);
  for (const int found : beams[0].ids) {
    CHECK(found == id);
    id = generator.next(id);
  }
  CHECK(beams[0].ids.size() == 12);
  CHECK(beams[0].finish == Finish::length);
}

TEST_CASE("the length penalty of Wu et al. is one at one token and grows with alpha") {
  const auto model = peaked(1);
  const std::vector<int> prompt{1};
  for (const Beam& b : beam_search(*model, prompt, {.beams = 3, .tokens = 1, .alpha = 2}))
    CHECK(b.score == b.log_probability);
  for (const Beam& b : beam_search(*model, prompt, {.beams = 3, .tokens = 7, .alpha = 2}))
    CHECK(b.score == Approx(b.log_probability / 4));  // (12 / 6)^2
}

TEST_CASE("threads, the piece of the prompt and ids beyond the vocabulary change no beam") {
  const auto model = peaked(7);
  const std::vector<int> prompt{1, 2, 0, 3};
  const BeamSearch search{.beams = 3, .tokens = 6, .stop_ids = {3}};
  const auto beams = beam_search(*model, prompt, search);
  CHECK(same(beams, beam_search(*model, prompt, search, {.batch = 9, .piece = 1, .exec = {2}})));
  for (const Beam& b : beam_search(*model, prompt, {.beams = 3, .tokens = 6, .vocab = 3}))
    for (const int id : b.ids) CHECK(id < 3);
  for (std::size_t i = 1; i < beams.size(); ++i) CHECK(beams[i - 1].score >= beams[i].score);
}

TEST_CASE("a search that makes no sense is refused") {
  const auto model = peaked(1);
  const std::vector<int> prompt{1}, none, beyond{4};
  CHECK(contains(refusal([&] { beam_search(*model, none); }), "the prompt has no tokens"));
  CHECK(contains(refusal([&] { beam_search(*model, beyond); }), "token id 4, expected 0 .. 3"));
  CHECK(contains(refusal([&] { beam_search(*model, prompt, {.beams = 0}); }), "0 beams"));
  CHECK(contains(refusal([&] { beam_search(*model, prompt, {.tokens = 0}); }), "0 tokens"));
  CHECK(contains(refusal([&] { beam_search(*model, prompt, {.alpha = -1}); }), "alpha is -1"));
  CHECK(contains(refusal([&] { beam_search(*model, prompt, {.vocab = -1}); }), "vocab of the search is -1"));
}
