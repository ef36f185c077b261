#pragma once
// A conversation on the terminal: each line of the standard input is continued by the model, which remembers
// the lines before. Text appears in whole characters, coloured by the expert of each token if asked.
#include <moegpt/io/huggingface.hpp>
#include <moegpt/moegpt.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

#include <unistd.h>

namespace chat {

using namespace moegpt;

struct Options {
  Generate how{};
  int colour_layer = -1;  // text is coloured by the first expert of each token in this layer; -1: it is not
};

// Colours of experts, of the 256 of a terminal.
inline constexpr int colours[] = {75, 214, 114, 204, 179, 141, 80, 209, 149, 105, 220, 174};

template <class Model>
class Conversation {
 public:
  Conversation(const Model& model, const Tokenizer& tokenizer, Options options)
      : model_(model),
        tokenizer_(tokenizer),
        options_(std::move(options)),
        work_({1, std::min<Index>(Model::config.context, 64)}, options_.how.exec, {},
              options_.colour_layer >= 0 ? Use::inspection : Use::inference),
        rng_(Key{options_.how.seed}.with(Purpose::sampling)) {
    check(options_.colour_layer < Model::config.layers, "--colour-layer is ", options_.colour_layer,
          ", expected 0 .. ", Model::config.layers - 1);
    options_.how.sampling.vocab = tokenizer.vocab();
    sampler_.restart(options_.how.sampling);
    if (const BytePairs* pairs = tokenizer.byte_pairs()) start_ = pairs->rules().start;
  }

  void run() {
    const bool terminal = ::isatty(0) == 1;
    for (std::string line; ask(terminal), std::getline(std::cin, line);) {
      if (line.empty()) continue;
      reply(line + "\n");
    }
  }

 private:
  static void ask(bool terminal) {
    if (terminal) std::fputs("> ", stderr);
  }
  void reply(const std::string& text) {
    std::vector<int> ids = tokenizer_.encode(text);
    if (!last_) ids.insert(ids.begin(), start_.begin(), start_.end());
    if (last_ && *last_ >= 0) ids.insert(ids.begin(), *last_);  // not read so far
    constexpr Index context = Model::config.context;
    if (std::ssize(ids) >= context) {
      std::fprintf(stderr, "(the line has %zu tokens, but the model's context is %td: it is not read)\n",
                   ids.size(), context);
      return;
    }
    if (cache_.remaining() <= std::ssize(ids)) {
      std::fputs("(the context is full: earlier lines are forgotten)\n", stderr);
      cache_.clear();
      sampler_.restart(options_.how.sampling);
    }
    const auto begin = std::chrono::steady_clock::now();
    sampler_.read(ids);
    In<Model::V, typename Model::Scalar> logits{};
    for (std::size_t at = 0; at < ids.size(); at += static_cast<std::size_t>(work_.shape.length))
      logits = read(std::span(ids).subspan(
          at, std::min(ids.size() - at, static_cast<std::size_t>(work_.shape.length))));
    TextStream stream(options_.how.stop);
    int tokens = 0;
    last_ = -1;
    const std::vector<int>& stops = options_.how.stop_ids;
    while (tokens < options_.how.tokens && !stream.stopped()) {
      const int id = sampler_(logits[0], Model::V, rng_.uniform());
      if (std::find(stops.begin(), stops.end(), id) != stops.end()) break;
      sampler_.accept(id);
      ++tokens;
      if (cache_.remaining() == 0) {
        last_ = id;
        show(stream.push(tokenizer_.decode({&id, 1})));
        break;
      }
      logits = read({&id, 1});  // also routes it
      show(stream.push(tokenizer_.decode({&id, 1})));
    }
    show(stream.finish());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::fputs("\n", stdout);
    std::fflush(stdout);
    std::fprintf(stderr, "(%d tokens, %.1f tokens/s, %.2f bytes/token%s)\n", tokens, tokens / seconds,
                 static_cast<double>(stream.text().size()) / std::max(tokens, 1),
                 cache_.remaining() == 0 ? "; the context is full" : "");
  }
  In<Model::V, typename Model::Scalar> read(std::span<const int> ids) {
    return model_.last_logits(ids, {}, work_, cache_, options_.how.noise);
  }
  void show(std::string_view text) {
    if (text.empty()) return;
    const int expert = options_.colour_layer >= 0 ? first_expert() : -1;
    if (expert >= 0)
      std::printf("\x1b[38;5;%dm%.*s\x1b[0m", colours[static_cast<std::size_t>(expert) % std::size(colours)],
                  static_cast<int>(text.size()), text.data());
    else
      std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  // Of the last token in the layer; -1: no expert.
  int first_expert() {
    int first = -1;
    for_each_mixture(model_, work_, [&](int layer, const auto&, const auto& tape) {
      if constexpr (HasPlan<std::remove_cvref_t<decltype(tape)>>) {
        Buffer<int> experts;
        experts_of_pairs(tape.plan, experts);
        const Index n = experts.size() - tape.plan.choices;
        if (layer == options_.colour_layer && n >= 0) first = experts[n];
      }
    });
    return first;
  }

  const Model& model_;
  const Tokenizer& tokenizer_;
  Options options_;
  typename Model::Workspace work_;
  typename Model::Cache cache_{1};
  Sampler<typename Model::Scalar> sampler_;
  Rng rng_;
  std::vector<int> start_;
  std::optional<int> last_;  // the last id, if it has not been read (else -1); none: nothing was said so far
};

}  // namespace chat
