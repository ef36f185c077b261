// Continues a text with a trained model: by sampling, several samples at a time, or by beam search. See
// --help.
#include <moegpt/io.hpp>
#include <moegpt/io/huggingface.hpp>

#include <cstdio>

#include "chat.hpp"
#include "options.hpp"
#include "presets.hpp"

using namespace moegpt;

namespace {

struct Options {
  std::string model;
  std::optional<std::string> storage;
  std::optional<std::string> prompt;
  Generate how{.tokens = 400, .sampling = {.temperature = 0.8}};
  std::vector<std::string> banned;
  std::vector<std::pair<int, double>> bias;
  int samples = 1, beams = 0, colour_layer = -1;
  bool chat = false, ignore_end = false;
  double alpha = 0.6;
};

void declare(CLI::App& app, Options& o) {
  using namespace options;
  constexpr double most = 1e6;
  Sampling& s = o.how.sampling;
  app.add_option("--model", o.model, "What train --save wrote, or a directory with config.json")
      ->required()
      ->check(file_name());
  app.add_option(
         "--storage", o.storage,
         "Type of matrices in memory: float, bf16 or int8, of 4, 2 and 1.125 bytes (default: the file's)")
      ->check(one_of({"float", "bf16", "int8"}));
  auto* const prompt = app.add_option("--prompt", o.prompt,
                                      "What to continue (default: a new line, or the model's first token)");
  auto* const chat =
      app.add_flag("--chat", o.chat, "Continues each line of the standard input, as it is, and remembers it")
          ->excludes(prompt);
  app.add_option("--colour-layer", o.colour_layer,
                 "With --chat: the colour of a text is the first expert of its tokens in layer L")
      ->check(whole(0))
      ->needs(chat);
  app.add_option("--tokens", o.how.tokens, "How much to write, at most (default 400)")->check(whole(0));
  app.add_option("--threads", o.how.exec.threads, "Default 1")->check(threads());

  const auto option = [&app](const char* group, const char* name, auto& value, const char* text) {
    return app.add_option(name, value, text)->group(group);
  };
  const char* const sampling = "Sampling, in the order of its steps";
  option(sampling, "--bias", o.bias, "ID X: adds X to the logit of token ID; may be repeated");
  option(sampling, "--repetition-penalty", s.repetition_penalty,
         "Above 1: tokens of the prompt and the text become less likely (default 1: none)")
      ->check(real(0, most, From::exclusive));
  option(sampling, "--presence-penalty", s.presence_penalty,
         "Subtracted from logits of tokens that are in the text (default 0)")
      ->check(real(-most, most));
  option(sampling, "--frequency-penalty", s.frequency_penalty,
         "Likewise, as often as they are in the text (default 0)")
      ->check(real(-most, most));
  option(sampling, "--ban", o.banned, "Tokens of this text are not written; may be repeated")
      ->allow_extra_args(false);
  option(sampling, "--temperature", s.temperature, "0: always the likeliest (default 0.8)")->check(real(0));
  option(sampling, "--top-k", s.top_k, "Choose among the K likeliest only; 0: all (default)")
      ->check(whole(0));
  option(sampling, "--top-p", s.top_p,
         "Choose among the fewest likeliest that reach probability P (default 1: all)")
      ->check(real(0, 1, From::exclusive));
  option(sampling, "--min-p", s.min_p,
         "Choose among those with P times the probability of the likeliest (default 0: all)")
      ->check(real(0, 1));
  option(sampling, "--seed", o.how.seed, "Another seed, another text (default 1)")->check(seed());

  const char* const several = "Several texts";
  auto* samples =
      option(several, "--samples", o.samples, "So many texts, with the seeds from --seed on (default 1)")
          ->check(whole(1, 10000));
  auto* beams =
      option(several, "--beams", o.beams, "Search for likely texts by so many beams, without sampling")
          ->check(whole(1, 1000))
          ->excludes(samples)
          ->excludes(chat);
  option(several, "--alpha", o.alpha, "Length normalisation of beams; 0: none (default 0.6)")
      ->check(real(0, most))
      ->needs(beams);

  const char* const output = "End and output";
  app.add_flag("--ignore-end", o.ignore_end,
               "Goes on after a special token of the tokenizer, such as <|endoftext|>, which ends a text")
      ->group(output);
  option(output, "--stop", o.how.stop, "A text ends before this string; may be repeated")
      ->allow_extra_args(false);
  option(output, "--log-probabilities", s.log_probabilities,
         "Lists each token's log-probability and those of the N likeliest")
      ->check(whole(0, 1000));
  option(output, "--piece", o.how.piece, "Tokens of the prompt in one forward; 0: the context (default)")
      ->check(whole(0));
}

void write(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::string quoted(const Tokenizer& tokenizer, int id) {
  const std::string text = tokenizer.decode({&id, 1});
  std::string quoted = "'";
  if (utf8::first_invalid(text) == std::string::npos)
    utf8::for_each_character(text, [&](char32_t c, std::size_t) { quoted += utf8::shown(c); });
  else
    quoted.append("id ").append(std::to_string(id));
  return quoted += "'";
}

void list(const Tokenizer& tokenizer, const Continuation& c) {
  for (std::size_t i = 0; i < c.log_probabilities.size(); ++i) {
    std::printf("%5zu  %-10s %8.4f  ", i, quoted(tokenizer, c.ids[i]).c_str(), c.log_probabilities[i]);
    for (const IdProbability& p : c.likeliest[i])
      std::printf("  %s %.4f", quoted(tokenizer, p.id).c_str(), p.log_probability);
    std::puts("");
  }
}

template <class Model>
void search(const Model& model, const Tokenizer& tokenizer, const std::string& prompt, const Options& o) {
  std::vector<int> ids = tokenizer.encode(prompt);
  if (ids.empty()) ids.push_back(0);
  const auto beams = beam_search(model, ids,
                                 {.beams = o.beams,
                                  .tokens = o.how.tokens,
                                  .alpha = o.alpha,
                                  .stop_ids = o.how.stop_ids,
                                  .vocab = tokenizer.vocab()},
                                 {.piece = o.how.piece, .exec = o.how.exec, .noise = o.how.noise});
  for (const Beam& b : beams) {
    std::printf("--- score %.4f, log-probability %.4f\n", b.score, b.log_probability);
    write(prompt + tokenizer.decode(b.ids) + "\n");
  }
}

std::vector<int> special_ids(const Tokenizer& tokenizer) {
  std::vector<int> ids;
  if (const BytePairs* pairs = tokenizer.byte_pairs())
    for (const auto& special : pairs->rules().special) ids.push_back(special.id);
  return ids;
}

template <class Model>
void run(Options o, bool noisy) {
  Model model;
  Tokenizer tokenizer;
  load_stated(o.model, model, tokenizer);
  if (noisy) o.how.noise = Key{o.how.seed}.with(Purpose::router_noise);
  for (const auto& [id, value] : o.bias) o.how.sampling.bias.push_back({id, value});
  for (const std::string& text : o.banned)
    for (const int id : tokenizer.encode(text)) o.how.sampling.banned.push_back(id);
  if (!o.ignore_end) o.how.stop_ids = special_ids(tokenizer);
  if (o.chat) return chat::Conversation<Model>(model, tokenizer, {o.how, o.colour_layer}).run();
  const std::string prompt = o.prompt.value_or(tokenizer.knows("\n") ? "\n" : "");
  tokenizer.encode(prompt);  // complains before anything is printed
  if (o.beams > 0) return search(model, tokenizer, prompt, o);
  const bool one = o.samples == 1;
  if (one) {
    write(prompt);
    o.how.on_token = write;
  }
  const std::vector<std::string> prompts(static_cast<std::size_t>(o.samples), prompt);
  const auto texts = generate_all(model, tokenizer, prompts, o.how);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (!one) {
      std::printf("--- seed %llu\n", static_cast<unsigned long long>(o.how.seed + i));
      write(prompt + texts[i].text);
    }
    write("\n");
    list(tokenizer, texts[i]);
  }
}

// Of the matrices in a file or directory, as --storage names it.
std::string storage_of(const std::string& path) {
  if (std::filesystem::is_directory(path))
    return facts(huggingface::Tensors(path).dtype()).bits == 16 ? "bf16" : "float";
  const SafetensorsFile file = read_safetensors(path);
  std::string storage = "float";
  for (const auto& [name, tensor] : file.header.tensors) {
    if (tensor.dtype == DType::i8) return "int8";
    if (tensor.dtype == DType::bf16) storage = "bf16";
  }
  return storage;
}

// Tries the preset's model with vocabulary V; whether it was this one.
template <class Preset, int V>
bool is(const std::string& found, const std::string& storage, const Options& o) {
  if (found != to_text<typename Preset::template Model<V>>()) return false;
  const bool noisy = Preset::recipe().noisy_evaluation;
  if (storage == "bf16")
    run<typename Preset::template Model<V, Stored<float, BF16>>>(o, noisy);
  else if (storage == "int8")
    run<typename Preset::template Model<V, Stored<float, INT8>>>(o, noisy);
  else
    run<typename Preset::template Model<V, Stored<float>>>(o, noisy);
  return true;
}

void start(const Options& o) {
  const std::string found = stated_type(o.model), storage = o.storage.value_or(storage_of(o.model));
#ifdef MOEGPT_MODEL
  if (is<training::Given, training::Given::vocab>(found, storage, o)) return;
#else
  if (is<training::Small, training::Small::vocab>(found, storage, o) ||
      is<training::Small, 256>(found, storage, o) ||
      is<training::MakeMoE, training::MakeMoE::vocab>(found, storage, o))
    return;
#endif
  check(false, o.model, " holds a ", shown(found, 1000),
        ", which this program is not compiled for. To compile it: examples/for_model.sh ", o.model,
        " generate ...");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Continues a text with a model saved by train", "generate");
  Options o;
  declare(app, o);
  return options::run(app, argc, argv, [&] { start(o); });
}
