#pragma once
// Text that continues a text.
#include <moegpt/generate/generator.hpp>
#include <moegpt/generate/text_stream.hpp>
#include <moegpt/text/tokenizer.hpp>

#include <functional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct Generate {
  int tokens = 200;  // at most
  Sampling sampling{};
  std::uint64_t seed = 1;
  Exec exec{};
  std::optional<Key> noise{};                        // for models whose routers are noisy in generation too
  const bool* allowed = nullptr;                     // [experts] that may be chosen; null: all
  int task = 0;                                      // which of a masked router's tasks this is
  std::function<void(std::string_view)> on_token{};  // called with whole characters as they are drawn
  std::vector<int> stop_ids{};                       // each ends the text, which does not contain it
  std::vector<std::string> stop{};                   // likewise strings
  Index piece = 0;                                   // tokens of a prompt in one forward; 0: the context
};

// A continuation, without its prompt.
struct Continuation {
  std::string text{};
  Finish finish = Finish::no;
  std::vector<int> ids{};                               // that were drawn, those of a stop included
  std::vector<double> log_probabilities{};              // of ids, with Sampling::log_probabilities
  std::vector<std::vector<IdProbability>> likeliest{};  // likewise
};

// Continues many prompts, `batch` of them at a time. Prompt i has the seed how.seed + i, and the text that
// generate writes with that seed. how.on_token is called with characters of all texts: on_text tells them
// apart. std::invalid_argument for a prompt that the tokenizer refuses, and options without meaning.
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

// Text that continues `prompt`, without the prompt. An empty prompt starts with token 0.
template <class Model>
std::string generate(const Model& model, const Tokenizer& tokenizer, std::string_view prompt,
                     const Generate& how = {}) {
  const std::string one(prompt);
  return generate_all(model, tokenizer, {&one, 1}, how, 1)[0].text;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
