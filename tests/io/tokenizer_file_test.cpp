#include <moegpt/io/tokenizer_file.hpp>

#include <moegpt/core/random.hpp>

#include "../support/catch.hpp"
#include "../support/refusal.hpp"
#include "../support/temporary_folder.hpp"

#include <fstream>

using namespace moegpt;

namespace {

// Trained by the package `tokenizers`: tests/golden/make_tokenizers.py.
std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(MOEGPT_TESTS_DIR) / "golden" / name;
}
void write_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}
std::string refusal_of(const std::filesystem::path& path) {
  return refusal<std::runtime_error>([&] { read_tokenizer_json(path); });
}
nlohmann::json gpt2() { return parse_json("", read_file(golden("bpe_gpt2.json")), 16); }

// The error for the file of gpt2() after change(json).
template <class Change>
std::string refused(Change change) {
  TemporaryFolder folder;
  nlohmann::json json = gpt2();
  change(json);
  write_text(folder / "tokenizer.json", json.dump());
  return refusal_of(folder / "tokenizer.json");
}

}  // namespace

TEST_CASE("ids of byte pairs are those of the package tokenizers") {
  const nlohmann::json golden_ids = parse_json("", read_file(golden("bpe_ids.json")));
  const std::vector<std::string> strings = golden_ids["strings"];
  REQUIRE(strings.size() > 400);
  for (const std::string name : {"gpt2", "llama3", "qwen2"}) {
    const Tokenizer tokenizer = read_tokenizer_json(golden("bpe_" + name + ".json"));
    for (std::size_t i = 0; i < strings.size(); ++i) {
      std::vector<int> ids;
      tokenizer.byte_pairs()->encode(strings[i], ids, true);
      INFO(name << ", string " << i);
      CHECK(ids == golden_ids[name][i].get<std::vector<int>>());
      CHECK(tokenizer.decode(ids) == (name == "qwen2" ? unicode::to_nfc(strings[i]) : strings[i]));
    }
  }
}

TEST_CASE("what a tokenizer.json says beside its merges is kept") {
  const BytePairRules gpt = read_tokenizer_json(golden("bpe_gpt2.json")).byte_pairs()->rules();
  const BytePairRules llama = read_tokenizer_json(golden("bpe_llama3.json")).byte_pairs()->rules();
  const BytePairRules qwen = read_tokenizer_json(golden("bpe_qwen2.json")).byte_pairs()->rules();
  CHECK((qwen.nfc && !llama.nfc && !gpt.nfc));
  CHECK(gpt.split == Split::gpt2);
  CHECK(llama.split == Split::llama3);
  CHECK(qwen.split == Split::qwen2);
  CHECK((llama.whole_pretokens && !gpt.whole_pretokens && !qwen.whole_pretokens));
  CHECK(gpt.special == std::vector<BytePairRules::Special>{{360, "<|begin|>"}, {361, "<|end|>"}});
  CHECK((llama.start == std::vector<int>{360} && gpt.start.empty()));
}

TEST_CASE("a tokenizer.json that is written is read as the same tokenizer") {
  TemporaryFolder folder;
  for (const std::string name : {"gpt2", "llama3", "qwen2"}) {
    const Tokenizer tokenizer = read_tokenizer_json(golden("bpe_" + name + ".json"));
    write_tokenizer_json(folder / "tokenizer.json", tokenizer);
    CHECK(read_tokenizer_json(folder / "tokenizer.json") == tokenizer);
    // `tokenizers` takes the ids of special tokens from the vocabulary.
    const auto json = nlohmann::json::parse(read_file(folder / "tokenizer.json", 1 << 20));
    for (const auto& special : tokenizer.byte_pairs()->rules().special)
      CHECK(json["model"]["vocab"][special.text] == special.id);
  }
  CHECK_THAT(refusal([&] { write_tokenizer_json(folder / "x", Tokenizer::bytes()); }),
             ContainsSubstring("expected one of byte pairs"));
}

TEST_CASE("GPT-2's two files are read") {
  TemporaryFolder folder;
  const Tokenizer tokenizer = read_tokenizer_json(golden("bpe_gpt2.json"));
  nlohmann::json json = gpt2(), vocabulary = json["model"]["vocab"];
  vocabulary["<|endoftext|>"] = 400;
  write_text(folder / "encoder.json", vocabulary.dump());
  std::string merges = "#version: 0.2\n";
  for (const auto& merge : json["model"]["merges"])
    merges.append(merge[0].get<std::string>()).append(" ").append(merge[1].get<std::string>()).append("\n");
  write_text(folder / "vocab.bpe", merges);
  const Tokenizer read = read_gpt2_tokenizer(folder / "vocab.bpe", folder / "encoder.json");
  CHECK(read.byte_pairs()->rules().merges == tokenizer.byte_pairs()->rules().merges);
  CHECK(read.byte_pairs()->special("<|endoftext|>") == 400);
  write_text(folder / "vocab.bpe", "#version: 0.2\nth\n");
  CHECK_THAT(refusal<std::runtime_error>(
                 [&] { read_gpt2_tokenizer(folder / "vocab.bpe", folder / "encoder.json"); }),
             ContainsSubstring("line 2 is 'th', expected two tokens"));
}

TEST_CASE("what would change ids and is not supported is refused by name") {
  using Json = nlohmann::json;
  CHECK_THAT(refused([](Json& j) { j["normalizer"] = {{"type", "NFKC"}}; }),
             ContainsSubstring("\"normalizer\" is"));
  CHECK_THAT(refused([](Json& j) { j["truncation"] = {{"max_length", 3}}; }),
             ContainsSubstring("\"truncation\""));
  CHECK_THAT(refused([](Json& j) { j["model"]["type"] = "WordPiece"; }), ContainsSubstring("\"model.type\""));
  CHECK_THAT(refused([](Json& j) { j["model"]["byte_fallback"] = true; }),
             ContainsSubstring("\"model.byte_fallback\""));
  CHECK_THAT(refused([](Json& j) { j["model"]["unk_token"] = "?"; }),
             ContainsSubstring("\"model.unk_token\""));
  CHECK_THAT(refused([](Json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; }),
             ContainsSubstring("\"pre_tokenizer.add_prefix_space\""));
  CHECK_THAT(refused([](Json& j) { j["pre_tokenizer"] = {{"type", "Whitespace"}}; }),
             ContainsSubstring("\"pre_tokenizer\""));
  CHECK_THAT(refused([](Json& j) { j["decoder"] = {{"type", "Metaspace"}}; }),
             ContainsSubstring("\"decoder\""));
  CHECK_THAT(refused([](Json& j) { j["added_tokens"][0]["lstrip"] = true; }),
             ContainsSubstring("\"added_tokens.lstrip\""));
  CHECK_THAT(refused([](Json& j) { j["post_processor"] = {{"type", "BertProcessing"}}; }),
             ContainsSubstring("\"post_processor\""));
  CHECK_THAT(refused([](Json& j) { j["model"]["vocab"]["unreachable"] = 500; }),
             ContainsSubstring("neither a byte nor the result of a merge"));
  CHECK_THAT(refused([](Json& j) { j["model"]["vocab"].erase("!"); }),
             ContainsSubstring("lacks '!', the byte"));
  CHECK_THAT(refused([](Json& j) { j["model"]["merges"][0] = "a b c"; }),
             ContainsSubstring("\"model.merges\""));
  CHECK_THAT(refused([](Json& j) { j["model"]["merges"][0] = {"!", "!"}; }), ContainsSubstring("lacks '!!'"));
  CHECK_THAT(refused([](Json& j) { j["model"]["vocab"]["!"] = -1; }), ContainsSubstring("expected 0 .. "));
  CHECK_THAT(refused([](Json& j) { j["model"]["ignore_merges"] = "yes"; }),
             ContainsSubstring("must be boolean"));
  CHECK_THAT(refused([](Json& j) { j["model"]["ignore_merge"] = true; }),
             ContainsSubstring("the member 'model.ignore_merge', which is not known"));
  CHECK_THAT(refused([](Json& j) { j["case"] = "lower"; }), ContainsSubstring("the member 'case'"));
  CHECK_THAT(refused([](Json& j) { j.erase("model"); }), ContainsSubstring("has no member \"model\""));
}

TEST_CASE("a damaged tokenizer.json is an error or a tokenizer, never something else") {
  TemporaryFolder folder;
  const std::string text = read_file(golden("bpe_llama3.json"));
  const Key key{5};
  int errors = 0;
  for (std::uint64_t i = 0; i < 300; ++i) {
    std::string damaged = text;
    for (std::uint64_t n = 0; n < 1 + i % 3; ++n)
      damaged[key.bits(8 * i + 2 * n) % damaged.size()] = "{}[]\",:0 x"[key.bits(8 * i + 2 * n + 1) % 10];
    if (i % 5 == 0) damaged.resize(key.bits(8 * i + 7) % damaged.size());
    write_text(folder / "tokenizer.json", damaged);
    errors += refusal_of(folder / "tokenizer.json") != "";
  }
  CHECK(errors > 200);
}
