#include <moegpt/generate/score.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/train/evaluate.hpp>

#include "support.hpp"

namespace {

std::vector<int> random_ids(std::size_t count, std::uint64_t seed) {
  Rng rng(seed);
  std::vector<int> ids(count);
  for (int& id : ids) id = static_cast<int>(rng.below(7));
  return ids;
}

// Minus the sum of the losses of the last `count` ids in one forward of all, as Head computes them.
template <class M>
double by_forward(const M& model, std::vector<int> ids, std::size_t count) {
  const auto length = static_cast<Index>(ids.size()) - 1;
  Batch batch{{1, length}, {ids.begin(), ids.end() - 1}, {ids.begin() + 1, ids.end()}};
  Workspace<M> work({1, length}, {}, {}, Use::inference);
  model.forward(batch, work);
  double sum = 0;
  for (Index n = length - static_cast<Index>(count); n < length; ++n)
    sum -= static_cast<double>(*work.tape.head.loss[n]);
  return sum;
}
// The same from the logits, in double.
double by_hand(const Model& model, const std::vector<int>& prompt, const std::vector<int>& ids) {
  double sum = 0;
  std::vector<int> before = prompt;
  for (const int id : ids) {
    SequenceBatch<Model> sequence(model);
    const auto z = sequence.read(0, before);
    double total = 0;
    for (int i = 0; i < 7; ++i) total += std::exp(static_cast<double>(z[0][i]));
    sum += static_cast<double>(z[0][id]) - std::log(total);
    before.push_back(id);
  }
  return sum;
}
std::vector<int> joined(std::vector<int> a, const std::vector<int>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
std::span<const std::vector<int>> all(const std::vector<std::vector<int>>& candidates) { return candidates; }

constexpr Config bytes{.vocab = 256, .context = 32, .dim = 8, .layers = 1, .heads = 2, .hidden = 6};
using ByteModel = GPT<bytes>;

const std::vector<std::vector<int>> candidates{{3}, {1, 4, 1, 5}, {2, 6}, {1, 4, 0}, {5, 5, 5, 5}};

}  // namespace

TEST_CASE("a score is the sum of the log-softmax of a forward of prompt and continuation, bit for bit") {
  const auto model = random_model(2);
  const std::vector<int> prompt{6, 0, 2, 1};
  for (const Index batch : {1, 2, 8})
    for (const Index piece : {0, 1, 3})
      for (const int threads : {1, 2}) {
        const auto scores =
            score_all(*model, prompt, all(candidates), {.batch = batch, .piece = piece, .exec = {threads}});
        REQUIRE(scores.size() == candidates.size());
        for (std::size_t i = 0; i < scores.size(); ++i) {
          CAPTURE(batch, piece, threads, i);
          CHECK(scores[i].log_probability ==
                by_forward(*model, joined(prompt, candidates[i]), candidates[i].size()));
          CHECK(scores[i].score == scores[i].log_probability);
          CHECK(scores[i].tokens == std::ssize(candidates[i]));
        }
      }
  CHECK(score(*model, prompt, candidates[1]) == Approx(by_hand(*model, prompt, candidates[1])).epsilon(1e-5));
}

TEST_CASE("the probabilities of all continuations of one length have the sum one") {
  const auto model = random_model(3);
  std::vector<std::vector<int>> pairs;
  for (int a = 0; a < 7; ++a)
    for (int b = 0; b < 7; ++b) pairs.push_back({a, b});
  double sum = 0;
  for (const Score& s : score_all(*model, std::vector<int>{4}, all(pairs)))
    sum += std::exp(s.log_probability);
  CHECK(sum == Approx(1).epsilon(1e-5));
}

TEST_CASE("one scorer reads many prompts, and the beginning that a prompt shares with the last only once") {
  const auto model = random_model(2);
  Scorer<Model> scorer(*model, {.batch = 2});
  const std::vector<int> prompts[] = {{1, 2, 3}, {1, 2, 3}, {1, 2, 4, 5}, {1}, {0, 2, 3}};
  for (const auto& prompt : prompts) {
    const auto found = scorer.log_probabilities(prompt, candidates);
    for (std::size_t i = 0; i < found.size(); ++i)
      CHECK(found[i] == by_forward(*model, joined(prompt, candidates[i]), candidates[i].size()));
  }
  const std::vector<int> first{1, 2, 3}, longer{1, 2, 3, 4}, other{2, 2, 3, 4};
  const std::vector<std::vector<int>> one{{5}};
  scorer.log_probabilities(first, one);
  const double expected = score(*model, longer, one[0]), of_other = score(*model, other, one[0]);
  for (int i = 0; i < 3 * config.dim; ++i)
    model->trunk.position_embedding.weight[i] += i % 3;  // not read again
  CHECK(scorer.log_probabilities(longer, one)[0] == expected);
  CHECK(scorer.log_probabilities(other, one)[0] != of_other);
}

TEST_CASE("with a capacity or a router that is not causal a prompt is read whole") {
  const auto scores_of = [&]<class M>(M& model) {
    Scorer<M> scorer(model);
    const std::vector<int> first{1, 2, 3, 4, 5, 6}, second{1, 2, 3, 4, 4, 4, 4};
    const std::vector<std::vector<int>> one{{5}};
    scorer.log_probabilities(first, one);
    CHECK(scorer.log_probabilities(second, one)[0] == score(model, second, one[0]));
  };
  const auto limited = random_model(1);
  limited->options.capacity_factor = 0.5;
  scores_of(*limited);
  scores_of(*random_model<GPT<config, AllowNonCausal<ExpertChoiceRouter<4, 2>>>>(1));
}

TEST_CASE("of a prompt longer than the context its end is read, and as much for every candidate") {
  const auto model = random_model(4);
  const std::vector<int> prompt = random_ids(20, 5);
  const auto scores = score_all(*model, prompt, all(candidates));
  for (std::size_t i = 0; i < scores.size(); ++i) {  // the longest has 4 tokens: 5 of the prompt are left
    const std::vector<int> end(prompt.end() - 5, prompt.end());
    CHECK(scores[i].log_probability == by_forward(*model, joined(end, candidates[i]), candidates[i].size()));
  }
  const std::vector<int> full = random_ids(8, 6), beyond = random_ids(9, 6);
  CHECK(score(*model, prompt, full) == by_forward(*model, joined({prompt.back()}, full), 8));
  CHECK(contains(refusal([&] { score(*model, prompt, beyond); }),
                 "a candidate has 9 tokens, but the model's context is 8"));
}

TEST_CASE("each rule divides or subtracts what it says, and the choice follows it") {
  const auto model = random_model(5);
  const std::vector<std::string> texts{"a", "bcde", "fg", "bg"};
  const std::vector<double> sums = [&] {
    std::vector<double> found;
    for (const auto& text : texts) found.push_back(score(*model, letters, "cab", text));
    return found;
  }();
  const std::vector<int> bare = letters.encode("d");
  for (const ScoreRule rule : {ScoreRule::sum, ScoreRule::per_token, ScoreRule::per_character,
                               ScoreRule::per_byte, ScoreRule::unconditional}) {
    const Scoring how{.rule = rule, .unconditional = bare};
    const auto scores = score_all(*model, letters, "cab", texts, how);
    std::size_t best = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const double size = rule == ScoreRule::sum || rule == ScoreRule::unconditional
                              ? 1
                              : static_cast<double>(texts[i].size());
      const double less = rule == ScoreRule::unconditional ? score(*model, letters, "d", texts[i]) : 0;
      CHECK(scores[i].log_probability == sums[i]);
      CHECK(scores[i].score == (sums[i] - less) / size);
      if (scores[i].score > scores[best].score) best = i;
    }
    CHECK(choose(*model, letters, "cab", texts, how) == best);
  }
  const std::vector<std::string> twice{"fg", "a", "a"};
  CHECK(choose(*model, letters, "cab", twice) == 1);  // of equal ones the first
}

TEST_CASE("characters of a text are counted as UTF-8, its bytes as bytes") {
  const auto model = random_model<ByteModel>(1);
  const std::vector<std::string> text{"h\xc3\xa4t"};  // hät
  const double sum = score(*model, Tokenizer::bytes(), "x", text[0]);
  const auto by = [&](ScoreRule rule) {
    return score_all(*model, Tokenizer::bytes(), "x", text, {.rule = rule})[0].score;
  };
  CHECK(by(ScoreRule::per_byte) == sum / 4);
  CHECK(by(ScoreRule::per_token) == sum / 4);
  CHECK(by(ScoreRule::per_character) == sum / 3);
}

TEST_CASE("examples before a question are a part of the prompt") {
  const auto trained = random_model<ByteModel>(2);
  const ByteModel& model = *trained;
  const Tokenizer tokenizer;
  std::vector<std::size_t> answer_with;  // so many examples
  const std::vector<std::string> examples{"cold: hot\n", "big: small\n"}, answers{"slow", "wet"};
  std::string prompt;
  for (std::size_t shots = 0; shots <= examples.size(); ++shots) {  // zero-shot, one-shot, few-shot
    if (shots > 0) prompt += examples[shots - 1];
    answer_with.push_back(
        choose(model, tokenizer, prompt + "dry: ", answers, {.rule = ScoreRule::per_character}));
  }
  const auto best = [&](const std::string& before) {
    return score(model, tokenizer, before, "slow") / 4 >= score(model, tokenizer, before, "wet") / 3 ? 0u
                                                                                                     : 1u;
  };
  CHECK(answer_with == std::vector<std::size_t>{best("dry: "), best("cold: hot\ndry: "),
                                                best("cold: hot\nbig: small\ndry: ")});
}

TEST_CASE("scores without tokens, texts or an unconditional prompt are refused") {
  const auto model = random_model();
  const std::vector<int> prompt{1}, none, beyond{1, 7};
  const std::vector<std::string> no_texts;
  CHECK(contains(refusal([&] { score(*model, none, prompt); }), "the prompt has no tokens"));
  CHECK(contains(refusal([&] { score(*model, prompt, none); }), "a candidate has no tokens"));
  CHECK(contains(refusal([&] { score(*model, prompt, beyond); }), "expected 0 .. 6"));
  CHECK(contains(refusal([&] { score(*model, beyond, prompt); }), "expected 0 .. 6"));
  CHECK(contains(refusal([&] { score(*model, prompt, prompt, {.batch = 0}); }), "a batch of 0 candidates"));
  CHECK(contains(refusal([&] { score(*model, prompt, prompt, {.piece = -1}); }), "the piece of a prompt"));
  CHECK(contains(refusal([&] { score(*model, prompt, prompt, {.rule = ScoreRule::unconditional}); }),
                 "Scoring::unconditional"));
  CHECK(contains(refusal([&] { score(*model, prompt, prompt, {.rule = ScoreRule::per_byte}); }),
                 "needs texts"));
  CHECK(contains(refusal([&] { choose(*model, letters, "a", no_texts); }), "there are no candidates"));
}

TEST_CASE("a perplexity scores each token once, with the context that its windows give it") {
  const auto model = random_model(7);
  const std::vector<int> text = random_ids(30, 8);
  for (const Index window : {1, 3, 5, 8})
    for (Index stride = 1; stride <= window; ++stride)
      for (const Index batch : {1, 3}) {
        CAPTURE(window, stride, batch);
        double nats = 0;
        Index scored = 1;  // the first token has no context
        for (Index first = 0; scored < 30; first += stride) {
          first = std::min(first, 29 - window);
          const std::vector<int> part(text.begin() + first, text.begin() + first + window + 1);
          const Index fresh = first + window + 1 - scored;
          CHECK(window - fresh >= (scored > 1 ? window - stride : 0));
          nats -= by_forward(*model, part, static_cast<std::size_t>(fresh));
          scored = first + window + 1;
        }
        const Perplexity found =
            perplexity(*model, text, {.window = window, .stride = stride, .batch = batch});
        CHECK(found.tokens == 29);
        CHECK(found.nats == Approx(nats).epsilon(1e-12));
        CHECK(found.value() == Approx(std::exp(nats / 29)));
      }
}

TEST_CASE("a perplexity without overlap is that of evaluate, one of a short text that of a forward") {
  const auto model = random_model(7);
  const std::vector<int> text = random_ids(33, 9), brief = random_ids(5, 9);
  Workspace<Model> work({2, 8});
  CHECK(perplexity(*model, text, {.stride = 8}).mean() == Approx(evaluate(*model, text, work)).epsilon(1e-6));
  CHECK(perplexity(*model, brief).nats == Approx(-by_forward(*model, brief, 4)).epsilon(1e-12));
  CHECK(perplexity(*model, text).nats == perplexity(*model, text, {.window = 8, .stride = 4}).nats);
  const std::vector<int> one{1};
  CHECK(contains(refusal([&] { perplexity(*model, one); }), "at least 2 tokens; the text has 1"));
  CHECK(contains(refusal([&] { perplexity(*model, text, {.window = 9}); }), "a window of 9 tokens"));
  CHECK(contains(refusal([&] { perplexity(*model, text, {.window = 4, .stride = 5}); }), "a stride of 5"));
  CHECK(contains(refusal([&] { perplexity(*model, text, {.batch = 0}); }), "a batch of 0 windows"));
}
