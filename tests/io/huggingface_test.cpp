#include <moegpt/io/huggingface.hpp>

#include "../huggingface/run_model.hpp"
#include "../support/catch.hpp"
#include "../support/refusal.hpp"
#include "../support/temporary_folder.hpp"

#include <fstream>

using namespace moegpt;
using huggingface::Family;
using huggingface_models::with_model;

namespace {

namespace fs = std::filesystem;
// Of transformers: tests/golden/make_huggingface.py.
fs::path golden(const std::string& family) {
  return fs::path(MOEGPT_TESTS_DIR) / "golden" / "huggingface" / family;
}
std::vector<double> numbers_of(const SafetensorsFile& file, const TensorInfo& info) {
  std::vector<double> numbers;
  const std::string bytes = file.bytes(info);
  const Index count = (info.end - info.begin) * 8 / facts(info.dtype).bits;
  for_each_number<double>(info.dtype, bytes.data(), count, [&](Index, double x) { numbers.push_back(x); });
  return numbers;
}
// `usual`, or for long runs the number in the environment variable MOEGPT_EXECUTIONS.
int executions(int usual) {
  const char* more = std::getenv("MOEGPT_EXECUTIONS");
  return more ? std::atoi(more) : usual;
}
void overwrite(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}
template <class T, class F>
void with_family(const std::string& family, F&& f) {
  INFO(family);
  with_model<T>(golden(family), f);
}
using Mixtral = GPT<huggingface_models::small_mixtral, TopKRouter<5, 2>>;

// A copy of a family's directory that may be changed.
struct Copy : TemporaryFolder {
  fs::path directory = path / "model";
  explicit Copy(const std::string& family = "mixtral") { fs::copy(golden(family), directory); }
  void write(const std::string& name, const std::string& text) const {
    write_file_atomically(directory / name, [&](FileWriter& out) { out.write(text); });
  }
  nlohmann::json config() const { return nlohmann::json::parse(read_file(directory / "config.json")); }
  std::string refusal_of_config(auto change) const {
    nlohmann::json json = config();
    change(json);
    write("config.json", json.dump());
    return refusal<std::runtime_error>([&] { read_huggingface_config(directory); });
  }
  // Tensors by name, to be changed and written again.
  struct Tensor {
    DType dtype;
    std::vector<Index> shape;
    std::string bytes;
  };
  std::map<std::string, Tensor> tensors() const {
    std::map<std::string, Tensor> all;
    const SafetensorsFile file = read_safetensors(directory / "model.safetensors");
    for (const auto& [name, info] : file.header.tensors)
      all[name] = {info.dtype, info.shape, file.bytes(info)};
    return all;
  }
  void write(const std::string& name, const std::map<std::string, Tensor>& all) const {
    std::vector<NamedTensor> list;
    for (const auto& [tensor, t] : all) list.push_back({tensor, t.dtype, t.shape, t.bytes.data()});
    save_safetensors(directory / name, list);
  }
  std::string refusal_of_load() const {
    Mixtral model;
    return refusal<std::runtime_error>([&] { load_huggingface(directory, model); });
  }
};

template <class Model>
bool same_weights(const Model& a, const Model& b) {
  bool same = a.options == b.options;
  for_each_weight(
      [&](const auto& x, const auto& y) { same &= std::equal(x.begin(), x.end(), y.begin(), y.end()); }, a,
      b);
  return same;
}

}  // namespace

TEST_CASE("models of transformers have its logits, losses and gradients") {
  for (const Family& f : huggingface::families) {
    const std::string family(f.name);
    with_family<double>(family, [&]<class Model>() {
      const TemporaryFolder folder;
      huggingface_models::run<Model>(golden(family), folder / "out.safetensors");
      const SafetensorsFile expected = read_safetensors(golden(family) / "expected.safetensors"),
                            found = read_safetensors(folder / "out.safetensors");
      const Batch batch = huggingface_models::read_batch(golden(family) / "batch.safetensors");
      // transformers computes norms, softmax and rotary angles in float; of GPT-2 only the loss. DeepSeek-MoE
      // is not part of it (tests/huggingface/reference.py).
      const bool exact = family == "gpt2" || family == "deepseek";
      REQUIRE(found.header.tensors.size() +
                  (Model::config.tied && expected.header.tensors.contains("grad.lm_head.weight")) ==
              expected.header.tensors.size());
      for (const auto& [name, info] : expected.header.tensors) {
        INFO(name);
        const std::vector<double> theirs = numbers_of(expected, info);
        const std::vector<double> ours = numbers_of(found, found.header.tensors.at(name));
        if (name == "logits") {
          const Index V = Model::config.vocab;
          double worst = 0;
          for (Index n = 0; n < batch.shape.tokens(); ++n)
            if (n % batch.shape.length < batch.lengths[static_cast<std::size_t>(n / batch.shape.length)])
              for (Index v = n * V; v < (n + 1) * V; ++v)
                worst = std::max(
                    worst, std::abs(ours[static_cast<std::size_t>(v)] - theirs[static_cast<std::size_t>(v)]));
          CHECK(worst < (exact ? 1e-9 : 3e-5));
        } else if (name == "losses") {
          for (const std::size_t i : {0, 1}) CHECK(ours[i] == Approx(theirs[i]).margin(exact ? 1e-9 : 1e-5));
        } else {
          double norm = 0, product = 0;
          for (std::size_t i = 0; i < ours.size(); ++i) {
            norm += ours[i] * ours[i];
            product += ours[i] * std::sin(static_cast<double>(i + 1));
          }
          CHECK(std::abs(std::sqrt(norm) - theirs[0]) <= (exact ? 1e-9 : 1e-5) * theirs[0]);
          CHECK(std::abs(product - theirs[1]) <= (exact ? 1e-9 : 3e-5) * theirs[0]);
        }
      }
    });
  }
}

TEST_CASE("what is exported is imported with the same bits, in one file, in shards and in BF16") {
  for (const Family& f : huggingface::families) {
    const std::string family(f.name);
    with_family<double>(family, [&]<class Model>() {
      const TemporaryFolder folder;
      Model model;
      load_huggingface(golden(family), model);  // BF16
      for (const HuggingFaceOptions& how : {HuggingFaceOptions{.shard_bytes = 5000}, HuggingFaceOptions{},
                                            HuggingFaceOptions{.dtype = DType::bf16}}) {
        save_huggingface(folder / "model", model, family, how);
        CHECK(fs::exists(folder / "model/model.safetensors.index.json") == (how.shard_bytes == 5000));
        Model again;
        load_huggingface(folder / "model", again);
        CHECK(same_weights(model, again));
      }
      // Byte for byte what transformers wrote, but for metadata.
      const SafetensorsFile ours = read_safetensors(folder / "model/model.safetensors"),
                            theirs = read_safetensors(golden(family) / "model.safetensors");
      REQUIRE(ours.header.tensors.size() == theirs.header.tensors.size());
      for (const auto& [name, info] : theirs.header.tensors) {
        CHECK(ours.header.tensors.at(name).dtype == info.dtype);
        CHECK(ours.header.tensors.at(name).shape == info.shape);
        CHECK(ours.bytes(ours.header.tensors.at(name)) == theirs.bytes(info));
      }
    });
  }
}

TEST_CASE("tensors of an earlier export do not stay in the directory") {
  const TemporaryFolder folder;
  Mixtral model;
  load_huggingface(golden("mixtral"), model);
  for (const std::int64_t shard_bytes : {5'000'000'000, 5'000l, 3'000l, 5'000'000'000}) {
    save_huggingface(folder / "model", model, "mixtral", {.shard_bytes = shard_bytes});
    std::set<std::string> found, expected;
    for (const auto& entry : fs::directory_iterator(folder / "model"))
      if (entry.path().extension() == ".safetensors") found.insert(entry.path().filename());
    const fs::path index = folder / "model/model.safetensors.index.json";
    if (shard_bytes > 5000) {
      CHECK_FALSE(fs::exists(index));
      expected.insert("model.safetensors");
    } else {
      const auto json = nlohmann::json::parse(std::ifstream(index));
      for (const auto& [tensor, file] : json["weight_map"].items()) expected.insert(file.get<std::string>());
      CHECK(expected.size() > 2);
    }
    CHECK(found == expected);
  }
}

TEST_CASE("a tokenizer, or the files of another directory, are written beside the weights") {
  const TemporaryFolder folder;
  const Copy copy;
  Mixtral model;
  load_huggingface(copy.directory, model);
  const auto config_of = [&](const char* name) {
    return nlohmann::json::parse(read_file(folder / name / "config.json"));
  };
  BytePairRules rules{.bytes = gpt2_byte_ids(), .special = {{256, "<|endoftext|>"}}};
  const Tokenizer tokenizer = Tokenizer::byte_pairs(rules);
  save_huggingface(folder / "own", model, "mixtral", {.tokenizer = &tokenizer});
  CHECK(read_huggingface_tokenizer(folder / "own") == tokenizer);
  CHECK(config_of("own")["eos_token_id"] == 256);
  const auto settings = nlohmann::json::parse(read_file(folder / "own/tokenizer_config.json"));
  CHECK(settings["eos_token"] == "<|endoftext|>");

  nlohmann::json config = copy.config();
  config["eos_token_id"] = {3, 4}, config["hidden_act"] = "relu";
  copy.write("config.json", config.dump());
  copy.write("generation_config.json", "{}");
  copy.write("modeling.py", "");
  write_tokenizer_json(copy.directory / "tokenizer.json", tokenizer);
  save_huggingface(folder / "trained", model, "mixtral", {.base = copy.directory});
  CHECK(read_huggingface_tokenizer(folder / "trained") == tokenizer);
  CHECK(fs::exists(folder / "trained/generation_config.json"));
  CHECK_FALSE(fs::exists(folder / "trained/modeling.py"));
  CHECK(config_of("trained")["eos_token_id"] == nlohmann::json{3, 4});
  CHECK(config_of("trained")["hidden_act"] == "silu");  // of the model
  Mixtral again;
  load_huggingface(folder / "trained", again);
  CHECK(same_weights(model, again));
  save_huggingface(copy.directory, model, "mixtral", {.base = copy.directory});  // in place
  CHECK(copy.config()["eos_token_id"] == nlohmann::json{3, 4});
  CHECK(read_huggingface_tokenizer(copy.directory) == tokenizer);
}

TEST_CASE("experts in one tensor, F16, and names without a prefix are read") {
  Mixtral model, fused;
  const Copy copy;
  load_huggingface(copy.directory, model);
  std::map<std::string, Copy::Tensor> tensors = copy.tensors(), joined;
  for (auto& [name, tensor] : tensors) {
    const std::size_t at = name.find("block_sparse_moe.experts.");
    if (at == std::string::npos) {
      joined[name] = tensor;
      continue;
    }
    const std::string stem = name.substr(0, at) + "mlp.experts.";
    const bool down = name.ends_with(".w2.weight");
    Copy::Tensor& to = joined[stem + (down ? "down_proj" : "gate_up_proj")];
    to.dtype = tensor.dtype;
    to.shape = {5, (down ? 1 : 2) * tensor.shape[0], tensor.shape[1]};
    to.bytes.resize((down ? 5 : 10) * tensor.bytes.size());
    const auto expert = static_cast<std::size_t>(name[at + 25] - '0');
    const std::size_t half = name.ends_with(".w3.weight");
    tensor.bytes.copy(to.bytes.data() + (down ? expert : 2 * expert + half) * tensor.bytes.size(),
                      tensor.bytes.size());
  }
  for (auto& [name, tensor] : joined)
    if (name == "model.norm.weight") {  // numbers that F16 holds, too
      tensor.dtype = DType::f16;
      std::string halves;
      for (int i = 0; i < 24; ++i) {
        const Eigen::half h(0.5f + 0.25f * static_cast<float>(i));
        halves.append(reinterpret_cast<const char*>(&h), 2);
      }
      tensor.bytes = halves;
    }
  copy.write("model.safetensors", joined);
  load_huggingface(copy.directory, fused);
  for (int i = 0; i < 24; ++i) CHECK(fused.trunk.norm.weight[i] == 0.5f + 0.25f * static_cast<float>(i));
  fused.trunk.norm = model.trunk.norm;
  CHECK(same_weights(model, fused));

  const Copy gpt2("gpt2");
  tensors = gpt2.tensors();
  joined.clear();
  for (const auto& [name, tensor] : tensors) joined[name.substr(12)] = tensor;
  joined["h.0.attn.bias"] = joined["ln_f.bias"];  // a buffer of old files
  gpt2.write("model.safetensors", joined);
  with_family<double>("gpt2", [&]<class Model>() {
    Model with_prefix, without;
    load_huggingface(golden("gpt2"), with_prefix);
    load_huggingface(gpt2.directory, without);
    CHECK(same_weights(with_prefix, without));
  });
}

TEST_CASE("a second copy of a tied head is compared with the embedding") {
  const Copy copy("qwen2");
  auto tensors = copy.tensors();
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"];
  copy.write("model.safetensors", tensors);
  with_family<double>("qwen2", [&]<class Model>() {
    Model model;
    load_huggingface(copy.directory, model);
    tensors["lm_head.weight"].bytes[100] ^= 1;
    copy.write("model.safetensors", tensors);
    CHECK_THAT(refusal<std::runtime_error>([&] { load_huggingface(copy.directory, model); }),
               ContainsSubstring("differs from the embedding"));
  });
}

TEST_CASE("a tensor that does not fit is named, with what was found and expected") {
  const Copy copy;
  const auto good = copy.tensors();
  const std::string gate = "model.layers.0.block_sparse_moe.gate.weight";
  const auto refused = [&](auto change) {
    auto tensors = good;
    change(tensors);
    copy.write("model.safetensors", tensors);
    return copy.refusal_of_load();
  };
  CHECK(refused([](auto&) {}) == "");
  CHECK_THAT(refused([&](auto& t) { t.erase(gate); }),
             ContainsSubstring("has no tensor '" + gate + "' [5, 24]"));
  CHECK_THAT(refused([&](auto& t) { t[gate].shape = {24, 5}; }),
             ContainsSubstring("'" + gate + "' has shape [24, 5], expected [5, 24]"));
  CHECK_THAT(refused([&](auto& t) { t["model.extra"] = t[gate]; }),
             ContainsSubstring("unknown: 'model.extra'"));
  CHECK_THAT(refused([&](auto& t) { t[gate].dtype = DType::i16; }),
             ContainsSubstring("expected F64, F32, F16 or BF16"));
  CHECK_THAT(refused([&](auto& t) { t[gate].bytes.replace(0, 2, "\x80\x7f"); }),
             ContainsSubstring("holds inf at index 0"));
}

TEST_CASE("tensors of several experts, selection biases and layers beyond the model's are checked") {
  const auto refused = [](const std::string& family, auto change) {
    const Copy copy(family);
    auto tensors = copy.tensors();
    change(tensors);
    copy.write("model.safetensors", tensors);
    std::string text;
    with_model<double>(copy.directory, [&]<class Model>() {
      Model model;
      text = refusal<std::runtime_error>([&] { load_huggingface(copy.directory, model); });
    });
    return text;
  };
  const std::string input = "model.layers.1.block_sparse_moe.input_linear.weight";
  CHECK_THAT(refused("granitemoe", [&](auto& t) { t.erase(input); }),
             ContainsSubstring("has no tensor '" + input + "' [7, 16]"));
  CHECK_THAT(refused("granitemoe", [&](auto& t) { t[input].shape = {5, 16, 14}; }),
             ContainsSubstring("'" + input + "' has shape [5, 16, 14], expected [more than 0, 14, 16]"));
  CHECK_THAT(refused("granitemoe", [&](auto& t) { t[input].shape = {70, 16}; }),
             ContainsSubstring("has shape [70, 16], expected [more than 0, 14, 16]"));
  CHECK_THAT(refused("granitemoe",
                     [&](auto& t) {
                       t[input].shape = {4, 14, 16};
                       t[input].bytes.resize(4 * 14 * 16 * 2);
                     }),
             ContainsSubstring("has shape [4, 14, 16], expected [more than 4, 14, 16]"));
  const std::string bias = "model.layers.2.mlp.gate.e_score_correction_bias";
  CHECK_THAT(refused("dots1", [&](auto& t) { t.erase(bias); }), ContainsSubstring("has no tensor '" + bias));
  CHECK_THAT(refused("olmoe",
                     [](auto& t) {
                       auto& norm = t["model.layers.0.self_attn.k_norm.weight"];
                       norm.shape = {4}, norm.bytes.resize(8);
                     }),
             ContainsSubstring("k_norm.weight' has shape [4], expected [8]"));
  const auto add_layer = [](const std::string& name) {
    return [name](auto& t) { t[name] = t["model.norm.weight"]; };
  };
  CHECK(refused("glm4_moe", add_layer("model.layers.2.enorm.weight")) == "");  // predicts further tokens
  CHECK_THAT(refused("glm4_moe", add_layer("model.layers.1.enorm.weight")),
             ContainsSubstring("unknown: 'model.layers.1.enorm.weight'"));
  CHECK_THAT(refused("dots1", add_layer("model.layers.3.enorm.weight")), ContainsSubstring("unknown"));
}

TEST_CASE("a load that fails leaves the model as it was") {
  const Copy copy;
  auto tensors = copy.tensors();
  tensors["model.norm.weight"].bytes.replace(0, 2, "\xc0\x7f");  // NaN
  copy.write("model.safetensors", tensors);
  Mixtral model, before;
  CHECK(copy.refusal_of_load() != "");
  CHECK_THROWS(load_huggingface(copy.directory, model));
  CHECK(same_weights(model, before));
}

TEST_CASE("an index names files beside it only, and what they have") {
  const Copy copy;
  const auto tensors = copy.tensors();
  nlohmann::json map = nlohmann::json::object();
  for (const auto& [name, tensor] : tensors) map[name] = "part.safetensors";
  fs::rename(copy.directory / "model.safetensors", copy.directory / "part.safetensors");
  const auto refused = [&](const nlohmann::json& changed) {
    copy.write("model.safetensors.index.json", nlohmann::json{{"weight_map", changed}}.dump());
    return copy.refusal_of_load();
  };
  CHECK(refused(map) == "");
  for (const char* name : {"../part.safetensors", "/etc/passwd", "..", "", "a/b"}) {
    nlohmann::json changed = map;
    changed["model.norm.weight"] = name;
    CHECK_THAT(refused(changed), ContainsSubstring("expected the name of a file beside the index"));
  }
  nlohmann::json changed = map;
  changed["model.norm.weight"] = 3;
  CHECK_THAT(refused(changed), ContainsSubstring("expected the name of a file"));
  changed["model.norm.weight"] = "missing.safetensors";
  CHECK_THAT(refused(changed), ContainsSubstring("names the file 'missing.safetensors', which is missing"));
  changed = map;
  changed["model.other.weight"] = "part.safetensors";
  CHECK_THAT(refused(changed), ContainsSubstring("lacks the tensor 'model.other.weight'"));
  CHECK_THAT(refused(nlohmann::json::array()), ContainsSubstring("\"weight_map\" is array"));
  // Without it, and beside it, model.safetensors is read.
  fs::rename(copy.directory / "part.safetensors", copy.directory / "model.safetensors");
  CHECK(refused(changed) == "");
}

TEST_CASE("a changed directory gives a model or an error, which leaves the model as it was") {
  const TemporaryFolder folder;
  const fs::path directory = folder / "model";
  int errors = 0, trials = executions(1000);
  for (const std::string family : {"granitemoe", "dots1"})
    with_family<double>(family, [&]<class Model>() {
      Model model, before;
      load_huggingface(golden(family), model);
      save_huggingface(directory, model, family, {.dtype = DType::bf16, .shard_bytes = 6000});
      before = model;
      std::vector<std::pair<fs::path, std::string>> files;
      for (const auto& file : fs::directory_iterator(directory))
        files.emplace_back(file.path(), read_file(file.path()));
      std::sort(files.begin(), files.end());
      for (int i = 0; i < trials; ++i) {
        const Key key{mix64(static_cast<std::uint64_t>(i))};
        const auto& [path, text] = files[key.bits(0) % files.size()];
        std::string changed = text;
        const std::size_t reach =
            key.bits(1) % 3 != 0 ? std::min<std::size_t>(text.size(), 700) : text.size();
        for (std::uint64_t n = 0; n < 1 + key.bits(2) % 4; ++n) {
          char& c = changed[key.bits(3 + 2 * n) % reach];
          const std::uint64_t random = key.bits(4 + 2 * n);
          c = random % 2 ? "{}[]\",:0-9ex \x01\xff"[random / 2 % 15]
                         : static_cast<char>(c ^ (1 << random / 2 % 8));
        }
        if (i % 7 == 0) changed.resize(key.bits(20) % text.size());
        i % 31 == 0 ? void(fs::remove(path)) : overwrite(path, changed);
        try {
          load_huggingface(directory, model);
          model = before;
        } catch (const std::runtime_error&) {
          ++errors;
        } catch (const std::invalid_argument&) {  // another type
          ++errors;
        }
        CHECK(same_weights(model, before));
        overwrite(path, text);
      }
      fs::remove_all(directory);
    });
  CHECK(errors > trials);
}

TEST_CASE("a directory of another type, and a model that the family cannot state, are refused") {
  const Copy copy;
  GPT<huggingface_models::small_mixtral, TopKRouter<4, 2>> other;
  CHECK_THAT(refusal([&] { load_huggingface(copy.directory, other); }),
             ContainsSubstring("router is TopKRouter<5, 2>, expected TopKRouter<4, 2>"));
  CHECK_THAT(refusal([&] { save_huggingface(copy.directory, other, "llama"); }),
             ContainsSubstring("a config.json of llama cannot state a GPT<"));
  CHECK_THAT(refusal([&] { save_huggingface(copy.directory, other, "bert"); }),
             ContainsSubstring("'bert', expected one"));
  other.options.attention_scale = 0.5;
  CHECK_THAT(refusal([&] { save_huggingface(copy.directory, other, "mixtral"); }),
             ContainsSubstring("cannot state these options of the model: attention_scale;"));
}
