// Turns texts into token files for training: with a tokenizer.json, or with byte pairs that it learns from
// the texts. See --help.
#include <moegpt/io.hpp>
#include <moegpt/io/tokenizer_file.hpp>
#include <moegpt/text/train_byte_pairs.hpp>

#include <chrono>
#include <cstdio>

#include <unistd.h>

#include "options.hpp"

using namespace moegpt;

namespace {

struct Options {
  std::vector<std::string> texts;
  std::string tokenizer, save, out, separator = "<|endoftext|>";
  int vocab = 0, threads = options::default_threads();
  std::string split = "gpt2";
  Index tokens_per_file = 100'000'000;
};

void declare(CLI::App& app, Options& o) {
  using namespace options;
  app.add_option("texts", o.texts, "Files, directories and patterns")->required();
  auto* const train =
      app.add_option("--train", o.vocab, "Learn byte pairs from the texts, with a vocabulary of so many ids")
          ->check(whole(257, BytePairRules::most_ids));
  app.add_option("--tokenizer", o.tokenizer, "A tokenizer.json of byte pairs")
      ->check(file_name())
      ->excludes(train);
  app.add_option("--split", o.split, "With --train: split pattern gpt2 (default), llama3 or qwen2")
      ->check(CLI::IsMember({"gpt2", "llama3", "qwen2"}))
      ->needs(train);
  app.add_option("--save", o.save, "With --train: writes the tokenizer.json")
      ->check(file_name())
      ->needs(train);
  app.add_option("--out", o.out, "Prefix of the token files: PREFIX_000000.bin and so on")
      ->check(file_name());
  app.add_option("--separator", o.separator,
                 "Token between two files (default <|endoftext|>, if there is one)");
  app.add_option("--tokens-per-file", o.tokens_per_file, "Default 100000000")->check(whole(1, 2'000'000'000));
  app.add_option("--threads", o.threads, "Default: 2")->check(threads());
}

// On a terminal a bar, otherwise a line for each tenth.
class Progress {
 public:
  Progress(const char* what, std::size_t bytes) : what_(what), bytes_(bytes) {}
  void show(std::size_t done) {
    using namespace std::chrono;
    const double part = static_cast<double>(done) / static_cast<double>(std::max<std::size_t>(bytes_, 1));
    const int step = static_cast<int>(part * (terminal_ ? 100 : 10));
    if (step <= last_) return;
    last_ = step;
    const double seconds = duration<double>(steady_clock::now() - begin_).count();
    const int filled = std::min(static_cast<int>(part * 30), 30);
    std::fprintf(stderr, "%s%s [%.*s%*s] %3.0f %%  %.1f MB/s  %.0f s left%s", terminal_ ? "\r" : "", what_,
                 filled, "##############################", 30 - filled, "", std::min(part, 1.) * 100,
                 static_cast<double>(done) / 1e6 / seconds, std::max(0., seconds / part - seconds),
                 terminal_ ? "\x1b[K" : "\n");
    if (terminal_ && done >= bytes_) std::fputc('\n', stderr);
  }

 private:
  const char* what_;
  std::size_t bytes_;
  bool terminal_ = ::isatty(2) == 1;
  int last_ = -1;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

Tokenizer trained(const Options& o, const TextFiles& text, std::size_t bytes) {
  const Split split = o.split == "gpt2" ? Split::gpt2 : o.split == "llama3" ? Split::llama3 : Split::qwen2;
  BytePairTrainer trainer({.vocab = o.vocab, .split = split});
  Progress progress("reading ", bytes);
  std::size_t done = 0;
  std::string waiting;  // pretokens do not reach from one call to the next
  text.read([&](const TextPiece& piece) {
    waiting += piece.text;
    const std::size_t settled = settled_prefix(waiting, split);
    trainer.add(std::string_view(waiting).substr(0, settled));
    waiting.erase(0, settled);
    progress.show(done += piece.text.size());
  });
  trainer.add(waiting);
  return Tokenizer::byte_pairs(trainer.train());
}

void tokenize(const Options& o) {
  check(!o.tokenizer.empty() || o.vocab > 0, "say which tokenizer: --tokenizer FILE, or --train VOCAB");
  check(!o.out.empty() || !o.save.empty(), "say what to write: --out PREFIX or --save FILE");
  TextFiles text{.files = list_files(o.texts)};
  std::size_t bytes = 0;
  for (const auto& path : text.files) bytes += std::filesystem::file_size(path);
  const Tokenizer tokenizer = o.vocab > 0 ? trained(o, text, bytes) : read_tokenizer_json(o.tokenizer);
  if (!o.save.empty()) {
    write_tokenizer_json(o.save, tokenizer);
    std::printf("%s: %d ids\n", o.save.c_str(), tokenizer.vocab());
  }
  if (o.out.empty()) return;
  if (tokenizer.byte_pairs()->special(o.separator) >= 0) text.separator = o.separator;
  Progress progress("encoding", bytes);
  const auto show = [&](std::size_t done) { progress.show(done); };
  const auto files = encode_to_files(text, tokenizer, o.out, o.tokens_per_file, Exec{o.threads},
                                     FunctionRef<std::size_t>(show));
  Index tokens = 0;
  for (const auto& file : files) tokens += read_tokens(file, {tokenizer.vocab()}).size();
  std::printf("%s%s: %td tokens of %zu bytes, %.2f bytes each\n", files[0].c_str(),
              files.size() > 1 ? " and on" : "", tokens, bytes,
              static_cast<double>(bytes) / static_cast<double>(tokens));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Turns texts into token files", "tokenize");
  Options o;
  declare(app, o);
  return options::run(app, argc, argv, [&] { tokenize(o); });
}
