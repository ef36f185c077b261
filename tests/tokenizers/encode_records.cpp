// encode_records train TEXT VOCAB SPLIT OUT.json: learns byte pairs.
// encode_records TOKENIZER.json|DIRECTORY IN OUT [special]: encodes the records of IN, each a uint32 length
// and its bytes, and writes a uint32 count and the ids of each as uint32. DIRECTORY has vocab.bpe and
// encoder.json.
#include <moegpt/io/tokenizer_file.hpp>
#include <moegpt/text/train_byte_pairs.hpp>

#include <chrono>
#include <cstdio>
#include <fstream>

using namespace moegpt;

namespace {

double seconds_of(const auto& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void train(char** argv) {
  BytePairTrainer trainer(
      {.vocab = std::atoi(argv[3]), .split = static_cast<Split>(std::atoi(argv[4])), .special = {}});
  const std::string text = read_file(argv[2]);
  BytePairRules rules;
  const double seconds = seconds_of([&] {
    trainer.add(text);
    rules = trainer.train();
  });
  std::printf("%zu merges in %.3f s\n", rules.merges.size(), seconds);
  write_tokenizer_json(argv[5], Tokenizer::byte_pairs(std::move(rules)));
}

void encode(const std::filesystem::path& from, const char* in_path, const char* out_path, bool special) {
  const Tokenizer tokenizer = std::filesystem::is_directory(from)
                                  ? read_gpt2_tokenizer(from / "vocab.bpe", from / "encoder.json")
                                  : read_tokenizer_json(from);
  const std::string in = read_file(in_path);
  std::ofstream out(out_path, std::ios::binary);
  double seconds = 0, bytes = 0;
  std::vector<int> ids;
  for (std::size_t at = 0; at < in.size();) {
    std::uint32_t size;
    std::memcpy(&size, in.data() + at, 4);
    const std::string_view text = std::string_view(in).substr(at + 4, size);
    at += 4 + size;
    ids.clear();
    seconds += seconds_of([&] { tokenizer.byte_pairs()->encode(text, ids, special); });
    bytes += size;
    const bool nfc = tokenizer.byte_pairs()->rules().nfc;
    if (tokenizer.decode(ids) != (nfc ? unicode::to_nfc(text) : std::string(text)))
      throw std::runtime_error("decode is not the inverse of encode");
    const auto count = static_cast<std::uint32_t>(ids.size());
    out.write(static_cast<const char*>(static_cast<const void*>(&count)), 4);
    out.write(static_cast<const char*>(static_cast<const void*>(ids.data())),
              static_cast<std::streamsize>(4 * ids.size()));
  }
  std::printf("%.1f MB/s\n", bytes / 1e6 / seconds);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 6 && std::string_view(argv[1]) == "train")
      train(argv);
    else if (argc >= 4)
      encode(argv[1], argv[2], argv[3], argc > 4);
    else
      return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "encode_records: %s\n", error.what());
    return 1;
  }
}
