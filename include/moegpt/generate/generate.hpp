#pragma once
// Text generation: continues prompts with a model and a tokenizer.
#include <moegpt/generate/generator.hpp>
#include <moegpt/generate/text_stream.hpp>
#include <moegpt/text/tokenizer.hpp>

#include <functional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct Generate {
  int tokens = 200;  // maximum number of new tokens
  Sampling sampling{};
  std::uint64_t seed = 1;
  Exec exec{};
  std::optional<Key> noise{};                        // RNG key of noisy routers; none: no noise
  const bool* allowed = nullptr;                     // [experts] allowed experts; null: all
  int task = 0;                                      // task id of Masked routers
  std::function<void(std::string_view)> on_token{};  // called with new text, in whole UTF-8 characters
  std::vector<int> stop_ids{};                       // end-of-sequence ids; the text excludes them
  std::vector<std::string> stop{};                   // stop strings; the text excludes them
  Index piece = 0;                                   // prefill chunk, in tokens of the prompt; 0: the context
};

struct Continuation {
  std::string text{};  // without the prompt
  Finish finish = Finish::no;
  std::vector<int> ids{};                               // sampled ids, those of a stop included
  std::vector<double> log_probabilities{};              // of ids; only with Sampling::log_probabilities
  std::vector<std::vector<IdProbability>> likeliest{};  // most probable ids at each step; likewise
};

// Continues the prompts, at most `batch` at a time. Prompt i has the seed how.seed + i, and its text is that
// of generate with this seed. on_text(i, part) is called with new text of prompt i, how.on_token with that of
// all prompts. std::invalid_argument for a prompt that the tokenizer rejects or an option out of range.
template <class Model>
std::vector<Continuation> generate_all(const Model& model, const Tokenizer& tokenizer,
                                       std::span<const std::string> prompts, const Generate& how = {},
                                       Index batch = 8,
                                       const std::function<void(Index, std::string_view)>& on_text = {}) {
  check(tokenizer.vocab() <= Model::config.vocab, "the tokenizer has ", tokenizer.vocab(),
        " tokens, the model only ", Model::config.vocab);
  check(how.tokens >= 0, "cannot generate ", how.tokens, " tokens");
  BatchGenerator<Model> generator(model, {.batch = batch,
                                          .piece = how.piece,
                                          .exec = how.exec,
                                          .noise = how.noise,
                                          .allowed = how.allowed,
                                          .task = how.task});
  std::vector<Continuation> all(prompts.size());
  std::vector<TextStream> streams(prompts.size(), TextStream(how.stop));
  const auto show = [&](std::size_t i, std::string_view part) {
    if (part.empty()) return;
    if (how.on_token) how.on_token(part);
    if (on_text) on_text(static_cast<Index>(i), part);
  };
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    Request request{.ids = tokenizer.encode(prompts[i]),
                    .tokens = how.tokens,
                    .sampling = how.sampling,
                    .seed = how.seed + i,
                    .stop_ids = how.stop_ids};
    if (request.ids.empty()) request.ids.push_back(0);
    request.sampling.vocab = tokenizer.vocab();
    if (how.tokens > 0)
      generator.add(std::move(request));
    else
      all[i].finish = Finish::length;
  }
  while (!generator.done())
    for (const Drawn& token : generator.step()) {
      const auto i = static_cast<std::size_t>(token.sequence);
      Continuation& c = all[i];
      c.ids.push_back(token.id);
      if (how.sampling.log_probabilities >= 0) {
        c.log_probabilities.push_back(token.log_probability);
        c.likeliest.emplace_back(token.likeliest.begin(), token.likeliest.end());
      }
      if (token.finish != Finish::stop) show(i, streams[i].push(tokenizer.decode({&token.id, 1})));
      c.finish = streams[i].stopped() ? Finish::stop : token.finish;
      if (c.finish == Finish::no) continue;
      generator.stop(token.sequence);
      show(i, streams[i].finish());
      c.text = streams[i].text();
    }
  return all;
}

// Continuation of `prompt`, without the prompt. An empty prompt becomes token 0. Throws as generate_all.
template <class Model>
std::string generate(const Model& model, const Tokenizer& tokenizer, std::string_view prompt,
                     const Generate& how = {}) {
  const std::string one(prompt);
  return generate_all(model, tokenizer, {&one, 1}, how, 1)[0].text;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
