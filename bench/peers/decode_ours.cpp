// GPT-2 124M for generation.py:
//   decode_ours draw FILE                                               writes a model of random weights
//   decode_ours decode FILE [--type float|bf16|int8] [--threads N]      decodes on command
//   decode_ours probe [--threads N]                                     reads 240 MB of memory on command
#include <moegpt/io.hpp>

#include "../../examples/options.hpp"
#include "../support/peak.hpp"
#include "../support/training.hpp"
#include "decode.hpp"

using namespace moegpt;

namespace {

template <class N>
using GPT2 = GPT<presets::gpt2_moe<>::config, Dense, N>;

// Norms and biases differ from 1 and 0, and branches add as much as embeddings do: a weight in the wrong
// place changes the logits.
void draw(const std::string& file) {
  const auto model = std::make_unique<GPT2<float>>();
  init(*model, Key{1}, Init::makemoe);
  Rng rng(2);
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& w) {
        for (float& value : w)
          if (w.shape.size() == 1)
            value += static_cast<float>(0.2 * rng.uniform() - 0.1);
          else if (path == "token_embedding.weight")
            value *= 0.1f;
      },
      *model);
  save(file, *model, Tokenizer::bytes());
}

template <class N>
void decode(const std::string& file, int threads) {
  using Model = GPT2<N>;
  const auto model = std::make_unique<Model>();
  load_safetensors(file, *model);
  SequenceBatch<Model> sequence(*model, {.piece = 64, .exec = Exec{.threads = threads}});
  std::printf("{\"name\": \"moegpt %s\", \"weights_met\": %.0f}\n", build_info().version,
              bench::weights_in_products(*model));
  std::fflush(stdout);
  peers::decode([&] { sequence.clear(0); },
                [&](std::span<const int> ids) {
                  const auto logits = sequence.read(0, ids);
                  return std::span<const float>(logits[0], static_cast<std::size_t>(Model::V));
                });
}

void probe(int threads) {
  bench::Reading reading;
  std::printf("{\"name\": \"read bandwidth\", \"bytes\": %.0f}\n", reading.bytes());
  std::fflush(stdout);
  for (peers::Command command; peers::Command::next(command);) {
    peers::Answer answer;
    for (int i = 0; i < command.count; ++i) {
      const double start = peers::milliseconds();
      reading.read(Exec{.threads = threads});
      answer.ms.push_back(peers::milliseconds() - start);
    }
    answer.print();
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Decodes with GPT-2 124M, when told to", "decode_ours");
  std::string file, type = "float";
  int threads = 1;
  app.require_subcommand(1);
  CLI::App* const drawing = app.add_subcommand("draw", "Writes a model of random weights");
  CLI::App* const decoding = app.add_subcommand("decode", "Decodes on command");
  CLI::App* const probing = app.add_subcommand("probe", "Reads memory on command");
  for (CLI::App* sub : {drawing, decoding}) sub->add_option("file", file, "safetensors")->required();
  for (CLI::App* sub : {decoding, probing})
    sub->add_option("--threads", threads, "Default 1")->check(options::threads());
  decoding->add_option("--type", type, "Storage of the weights: float (default), bf16 or int8")
      ->check(CLI::IsMember({"float", "bf16", "int8"}));
  return options::run(app, argc, argv, [&] {
    if (*drawing) return draw(file);
    if (*probing) return probe(threads);
    if (type == "bf16") return decode<Stored<float, BF16>>(file, threads);
    if (type == "int8") return decode<Stored<float, INT8>>(file, threads);
    decode<Stored<float>>(file, threads);
  });
}
