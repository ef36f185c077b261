#pragma once
// The models of `scaling` and `mixture_against_dense`, which share runs: a byte model of two layers by width
// and number of experts, of which one is active, and the texts that they are trained and tested on.
#include "language_run.hpp"

namespace bench {

inline constexpr int scaling_context = 64;

template <int Width, int Experts>
struct ScalingModel {
  static constexpr Config config{.vocab = 128,  // ASCII
                                 .context = scaling_context,
                                 .dim = Width,
                                 .layers = 2,
                                 .heads = std::max(1, Width / 32),
                                 .hidden = 2 * Width,
                                 .norm = Norm::rms,
                                 .positions = Positions::rotary,
                                 .activation = Activation::silu,
                                 .gated = true,
                                 .output_bias = false,
                                 .expert_bias = false};
  using Model = GPT<config, std::conditional_t<Experts == 1, Dense, TopKRouter<Experts, 1>>>;
};

struct ScalingOptions {
  SweepOptions sweep;
  long tokens = 1000000;
  std::string data = "data/bible.txt", other = "data/tinyshakespeare.txt";
};
inline void add_options(CLI::App& app, ScalingOptions& o) {
  add_options(app, o.sweep);
  using namespace options;
  app.add_option("--tokens", o.tokens, "Characters that each model is trained on (default 1000000)")
      ->check(whole(20000));
  app.add_option("--data", o.data, "Text to train on (default data/bible.txt)")->check(file_name());
  app.add_option("--other", o.other, "Text of another domain (default data/tinyshakespeare.txt)")
      ->check(file_name());
}

inline std::vector<int> ascii(const std::string& path) {
  const std::string text = read_text(path);
  for (const char c : text)
    check(static_cast<unsigned char>(c) < 128, "'", path, "' has bytes that are no ASCII: take another text");
  return Tokenizer::bytes().encode(text);
}

// The text to train on, its last tenth for validation; the last tenth of the other text.
inline Texts scaling_texts(const ScalingOptions& o) {
  const auto tail = [](std::vector<int>& ids) {
    const auto cut = static_cast<std::ptrdiff_t>(ids.size() / 10 * 9);
    std::vector<int> last(ids.begin() + cut, ids.end());
    ids.resize(static_cast<std::size_t>(cut));
    return last;
  };
  Texts texts{ascii(o.data), {}, ascii(o.other)};
  texts.val = tail(texts.train);
  texts.other = tail(texts.other);
  return texts;
}

// `load` gives the texts when the first run needs them.
template <int Width, int Experts>
Cell scaling_cell(const ScalingOptions& o, const std::function<const Texts&()>& load) {
  using Model = typename ScalingModel<Width, Experts>::Model;
  TrainingPlan plan{.batch = {16, scaling_context}};
  plan.steps = o.tokens / plan.batch.tokens();
  return {.name = "width " + std::to_string(Width) + ", " + std::to_string(Experts) + " experts",
          .key = {{"width", Width}, {"experts", Experts}, {"tokens", o.tokens}},
          .flops = flops_of<Model>(plan),
          .run = [=](std::uint64_t seed, const Progress& show) {
            return train<Model>(load(), plan, seed, show);
          }};
}

// Weights per token without embedding and head, of which the forms of scaling laws are functions.
inline double inner_weights(const Record& record) {
  return record.at("active").get<double>() - 2 * 128 * record.at("width").get<double>();
}

}  // namespace bench
