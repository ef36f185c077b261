// What is saved loads for good: the file in tests/golden/ that was written before files had versions, and
// older files of an imagined later format. Tables of renamed names and of defaults are the tests' own.
#include <moegpt/io.hpp>

#include "../support/numbers.hpp"
#include "support.hpp"

#include <algorithm>
#include <iterator>
#include <list>

using namespace moegpt;

namespace {

constexpr Config golden_config{.vocab = 6,
                               .context = 6,
                               .dim = 4,
                               .layers = 2,
                               .heads = 2,
                               .kv_heads = 1,
                               .hidden = 3,
                               .norm = Norm::rms,
                               .activation = Activation::relu,
                               .gated = true,
                               .attention_bias = true,
                               .head_bias = true,
                               .dense_first = 1};
using Golden = GPT<golden_config, SigmoidRouter<3, 2>>;
const std::string golden_path = MOEGPT_TESTS_DIR "/golden/model_file_1.safetensors";
constexpr ModelOptions golden_options{.norm_epsilon = 0x1.0p60,
                                      .rotary_base = 5000,
                                      .attention_scale = 0x1.0p20,
                                      .capacity_factor = 1.25,
                                      .min_capacity = 4};

template <class Number>
std::vector<Number> numbers_of(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<Number>(in), {}};
}

void check_logits(const Golden& model) {
  const Metadata metadata = read_safetensors(golden_path).header.metadata;
  const auto ids = numbers_of<int>(metadata.at("golden.ids"));
  const auto wanted = numbers_of<float>(metadata.at("golden.logits"));
  Golden::Workspace work{{1, 6}, {}, {}, Use::inference};
  Golden::Cache cache;
  const auto logits = model.logits(ids, work, cache);
  REQUIRE(wanted.size() == ids.size() * 6);
  CHECK(same_bits(logits.data, wanted.data(), static_cast<Index>(wanted.size())));
}

using Small =
    GPT<Config{.vocab = 4, .context = 4, .dim = 4, .layers = 1, .heads = 1, .hidden = 4}, TopKRouter<3, 2>>;

Small drawn() {
  Small model;
  init(model, Key{1});
  return model;
}

// The file with each tensor's name and the metadata as `change` leaves them.
template <class F>
void rewrite(const std::string& path, F&& change) {
  const SafetensorsFile file = read_safetensors(path);
  Metadata metadata = file.header.metadata;
  std::vector<NamedTensor> tensors;
  std::list<std::string> data;
  for (const auto& [name, info] : file.header.tensors)
    tensors.push_back({name, info.dtype, info.shape, data.emplace_back(file.bytes(info)).data()});
  change(tensors, metadata);
  save_safetensors(path, tensors, metadata);
}
void state(const std::string& path, const std::string& version) {
  rewrite(path, [&](auto&, Metadata& metadata) { metadata["moegpt.format_version"] = version; });
}
void replace(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size())
    text.replace(at, from.size(), to);
}

// Version 1 called them "mixer" and "SumRouter", version 3 otherwise, version 4 and later as today.
constexpr Renamed paths[] = {
    {3, "mixer", "attending"}, {4, "attending", "attention"}, {4, "moe.choice", "moe.router"}};
constexpr Renamed texts[] = {{3, "SumRouter", "BestRouter"}, {4, "BestRouter", "TopKRouter"}};
constexpr OptionDefault defaults[] = {{1, &ModelOptions::norm_epsilon, 0.5},
                                      {1, &ModelOptions::min_capacity, 1},
                                      {3, &ModelOptions::min_capacity, 2},
                                      {4, &ModelOptions::min_capacity, 3}};
constexpr FileFormat fourth{.version = 4, .paths = paths, .texts = texts, .defaults = defaults};

}  // namespace

TEST_CASE("a file written before files had versions loads with the bits of its logits") {
  REQUIRE_FALSE(read_safetensors(golden_path).header.metadata.contains("moegpt.format_version"));
  CHECK(model_text(golden_path) == to_text<Golden>());
  Golden model, bare;
  Tokenizer tokenizer;
  load(golden_path, model, tokenizer);
  load_safetensors(golden_path, bare);
  CHECK(tokenizer == Tokenizer::characters("abcde\n"));
  CHECK(model.options == golden_options);
  CHECK(bare.options == golden_options);
  check_logits(model);
  check_logits(bare);
}

TEST_CASE("a written file states the format's version, and an old file written again is the same model") {
  const TemporaryFolder folder;
  const std::string path = (folder / "m").string();
  Golden model, again;
  Tokenizer tokenizer;
  load(golden_path, model, tokenizer);
  save(path, model, tokenizer, {{"moegpt.format_version", "1"}});  // the library knows better
  CHECK(read_safetensors(path).header.metadata.at("moegpt.format_version") == "2");
  load(path, again, tokenizer);
  CHECK(again.options == golden_options);
  check_logits(again);
  save_safetensors(path, model.head);
  CHECK(read_safetensors(path).header.metadata.at("moegpt.format_version") == "2");
}

TEST_CASE("an invalid or newer version is rejected, and nothing changes") {
  const TemporaryFolder folder;
  const std::string path = (folder / "m").string();
  const auto errors = [&] {
    Small model;
    Tokenizer tokenizer = Tokenizer::characters("xy");
    const std::string error = error_of([&] { load(path, model, tokenizer); });
    CHECK(error_of([&] { load_safetensors(path, model); }) == error);
    CHECK(error_of([&] { model_text(path); }) == error);
    for_each_weight(
        [](const auto& w) {
          for (const float x : w) REQUIRE((x == 0 || x == 1));
        },
        model);
    CHECK(tokenizer == Tokenizer::characters("xy"));
    return error;
  };
  save(path, drawn(), Tokenizer::characters("abc"));
  for (const std::string text : {"1", "2"}) {
    state(path, text);
    Small model;
    Tokenizer tokenizer;
    CHECK(error_of([&] { load(path, model, tokenizer); }).empty());
  }
  for (const std::string text : {"", "0", "-1", "+2", "02", " 2", "2 ", "2.0", "2e0", "0x2", "two", "2\n",
                                 "\xc2\xb2", "4294967298", "18446744073709551618"}) {
    INFO(text);
    state(path, text);
    CHECK(has(errors(),
              path + ": moegpt.format_version is " + shown(text) + ", expected a number from 1 to 2"));
  }
  state(path, "3");
  rewrite(path, [](auto&, Metadata& metadata) { metadata["moegpt.version"] = "0.9.7"; });
  CHECK(has(errors(),
            path + ": has format version 3, expected 1 to 2: compile this program with a newer moegpt. "
                   "The file was written by version '0.9.7'"));
  rewrite(path, [](auto&, Metadata& metadata) { metadata.erase("moegpt.version"); });
  CHECK(errors().ends_with("with a newer moegpt"));
  rewrite(path, [](auto&, Metadata& metadata) { metadata.erase("moegpt.model"); });  // looked at later
  CHECK(errors().ends_with("with a newer moegpt"));
}

TEST_CASE("names are replaced in whole words, version by version, in older files alone") {
  using safetensors::renamed;
  CHECK(renamed("blocks.0.mixer.mixer.weight", 1, paths) == "blocks.0.attention.attention.weight");
  CHECK(renamed("mixer", 2, paths) == "attention");
  CHECK(renamed("mixer", 3, paths) == "mixer");
  CHECK(renamed("attending", 3, paths) == "attention");
  CHECK(renamed("attending", 4, paths) == "attending");
  CHECK(renamed("mixers.0.remixer.mixer_2", 1, paths) == "mixers.0.remixer.mixer_2");
  CHECK(renamed("blocks.1.moe.choice.weight", 1, paths) == "blocks.1.moe.router.weight");
  CHECK(renamed("choice.moe.choices", 1, paths) == "choice.moe.choices");
  CHECK(renamed("GPT<Config{}, Masked<SumRouter<3, 2>, 2>>", 1, texts) ==
        "GPT<Config{}, Masked<TopKRouter<3, 2>, 2>>");
  CHECK(renamed("NoisySumRouter<3, 2>", 1, texts) == "NoisySumRouter<3, 2>");
  CHECK(renamed("SumRouterWith<3, 2>", 1, texts) == "SumRouterWith<3, 2>");
  constexpr Renamed parts[] = {
      {3, "Sum<3", "Most<3"}, {3, ".mask = full", ".mask = Mask::full"}, {3, "a", "a.a"}};
  CHECK(renamed("Sum<3, 2>{.mask = full}, Sum<30>", 1, parts) == "Most<3, 2>{.mask = Mask::full}, Sum<30>");
  CHECK(renamed("a.a", 1, parts) == "a.a.a.a");
  CHECK(renamed("", 1, parts).empty());
}

TEST_CASE("a file with names of older versions loads as the model that it was, and only as an older file") {
  const TemporaryFolder folder;
  const std::string path = (folder / "m").string();
  const Small model = drawn();
  const auto save_as = [&](const std::string& version, std::string_view attention, std::string_view router,
                           std::string_view recipe) {
    save(path, model, Tokenizer::characters("abc"));
    rewrite(path, [&](std::vector<NamedTensor>& tensors, Metadata& metadata) {
      for (NamedTensor& tensor : tensors) {
        replace(tensor.name, "attention", attention);
        replace(tensor.name, "moe.router", router);
      }
      replace(metadata["moegpt.model"], "TopKRouter", recipe);
      metadata["moegpt.format_version"] = version;
      if (version == "1") metadata.erase("moegpt.format_version");
    });
  };
  const auto loads = [&] {
    Small read, bare;
    Tokenizer tokenizer;
    CHECK(model_text(path, fourth) == to_text<Small>());
    load(path, read, tokenizer, fourth);
    load_safetensors(path, bare, {.format = fourth});
    CHECK(read.options == model.options);
    for_each_weight(
        [](const auto& a, const auto& b, const auto& c) {
          CHECK(same_bits(a.data(), b.data(), a.size()));
          CHECK(same_bits(a.data(), c.data(), a.size()));
        },
        model, read, bare);
  };
  save_as("1", "mixer", "moe.choice", "SumRouter");
  loads();
  save_as("2", "mixer", "moe.choice", "SumRouter");
  loads();
  save_as("3", "attending", "moe.choice", "BestRouter");
  loads();
  save_as("4", "attention", "moe.router", "TopKRouter");
  loads();

  Small read;
  Tokenizer tokenizer;
  save_as("4", "attending", "moe.router", "TopKRouter");
  CHECK(has(error_of([&] { load(path, read, tokenizer, fourth); }),
            "unknown to this model: 'blocks.0.attending."));
  save_as("4", "attention", "moe.router", "BestRouter");
  CHECK(has(error_of([&] { load(path, read, tokenizer, fourth); }),
            "BestRouter<3, 2>>', this program is compiled for"));
  save_as("1", "mixer", "moe.choice", "SumRouter");
  CHECK(
      has(error_of([&] { load(path, read, tokenizer); }), "SumRouter<3, 2>>', this program is compiled for"));
  CHECK(has(error_of([&] { load_safetensors(path, read); }), "unknown to this model: 'blocks.0.mixer."));
}

TEST_CASE("a file with a weight under its old and its new name is rejected") {
  const TemporaryFolder folder;
  const std::string path = (folder / "m").string();
  save(path, drawn(), Tokenizer::characters("abc"));
  rewrite(path, [](std::vector<NamedTensor>& tensors, Metadata&) {
    tensors.push_back(*std::find_if(tensors.begin(), tensors.end(),
                                    [](const auto& t) { return t.name.ends_with("router.gate.weight"); }));
    tensors.back().name = "blocks.0.moe.choice.gate.weight";
  });
  Small model;
  CHECK(has(error_of([&] { load_safetensors(path, model, {.format = fourth}); }),
            path + ": has two tensors for the weight 'blocks.0.moe.router.gate.weight', expected one"));
  CHECK(model.head.weight[0] == 0);
}

TEST_CASE("an option that a file lacks has the default of the file's version") {
  const TemporaryFolder folder;
  const std::string path = (folder / "m").string();
  const auto options_of = [&](const std::string& version, std::initializer_list<const char*> lacking,
                              const FileFormat& format) {
    Small model = drawn(), read, bare;
    model.options = golden_options;
    Tokenizer tokenizer;
    save(path, model, Tokenizer::characters("abc"));
    rewrite(path, [&](auto&, Metadata& metadata) {
      metadata["moegpt.format_version"] = version;
      if (version == "1") metadata.erase("moegpt.format_version");
      for (const char* name : lacking) metadata.erase(std::string("moegpt.options.") + name);
    });
    read.options = bare.options = {
        .norm_epsilon = 7, .rotary_base = 7, .attention_scale = 7, .capacity_factor = 7, .min_capacity = 7};
    load(path, read, tokenizer, format);
    load_safetensors(path, bare, {.format = format});
    CHECK(read.options == bare.options);
    return read.options;
  };
  const auto all = {"norm_epsilon", "rotary_base", "attention_scale", "capacity_factor", "min_capacity"};
  constexpr ModelOptions today{.norm_epsilon = 1e-5,
                               .rotary_base = 10000,
                               .attention_scale = 0,
                               .capacity_factor = 0,
                               .min_capacity = 0};
  CHECK(options_of("1", all, {}) == today);
  CHECK(options_of("2", all, {}) == today);
  CHECK(options_of("2", {"rotary_base"}, {}).rotary_base == 10000);
  CHECK(options_of("2", {"rotary_base"}, {}).attention_scale == golden_options.attention_scale);
  for (const auto& [version, wanted] : {std::pair{"1", 1.0}, {"2", 1.0}, {"3", 2.0}, {"4", 3.0}}) {
    CHECK(options_of(version, {"min_capacity"}, fourth).min_capacity == wanted);
    CHECK(options_of(version, {"min_capacity", "norm_epsilon"}, fourth).norm_epsilon == 0.5);
    CHECK(options_of(version, {}, fourth) == golden_options);
  }
}

TEST_CASE("an option that is unknown is rejected by its name in files of every version") {
  const TemporaryFolder folder;
  const std::string path = (folder / "m").string();
  for (const char* version : {"1", "2"}) {
    save(path, drawn(), Tokenizer::characters("abc"));
    rewrite(path, [](auto&, Metadata& metadata) { metadata["moegpt.options.new_one"] = "1"; });
    state(path, version);
    Small model;
    Tokenizer tokenizer;
    CHECK(has(error_of([&] { load(path, model, tokenizer); }),
              "has an option 'new_one', expected one of norm_epsilon, "));
    CHECK(model.head.weight[0] == 0);
  }
}

// A text without a field means these values for good.
TEST_CASE("fields omitted in a type's text have the values that they had in the first version") {
  CHECK(to_text(Config{.vocab = 9,
                       .context = 8,
                       .dim = 8,
                       .layers = 3,
                       .heads = 2,
                       .kv_heads = 0,
                       .head_dim = 0,
                       .hidden = 0,
                       .dense_hidden = 0,
                       .mask = Mask::causal,
                       .window = 0,
                       .window_at = {},
                       .local = Local::window,
                       .stride = 0,
                       .norm = Norm::layer,
                       .residual = Residual::pre_norm,
                       .positions = Positions::learned,
                       .activation = Activation::gelu,
                       .gated = false,
                       .attention_bias = false,
                       .output_bias = true,
                       .expert_bias = true,
                       .head_bias = false,
                       .tied = false,
                       .dense_first = 0,
                       .moe_every = 1,
                       .mixture_at = {}}) ==
        "Config{.vocab = 9, .context = 8, .dim = 8, .layers = 3, .heads = 2}");
  CHECK(TopKRouter<8, 2, TopK{Gates::renormalised, false, false}>::text() == "TopKRouter<8, 2>");
  CHECK(TopKRouter<8, 1, TopK{Gates::probability, false, false}>::text() == "TopKRouter<8, 1>");
  CHECK(TopKRouterWith<8, 2, PNormGates<2>, false>::text() == "TopKRouterWith<8, 2, PNormGates<2>>");
  CHECK(TopKRouterWith<8, 2, PNormGates<1, std::ratio<5, 2>>>::text() ==
        "TopKRouterWith<8, 2, PNormGates<1, std::ratio<5, 2>>>");
  CHECK(NoisyTopKRouter<8, 2, NoisyTopK{false, false, false}>::text() == "NoisyTopKRouter<8, 2>");
  CHECK(SigmoidRouter<8, 2, Sigmoid{true, true, 1, 0, false}, std::ratio<1>>::text() ==
        "SigmoidRouter<8, 2>");
  CHECK(SigmoidRouter<8, 1, Sigmoid{false, true, 1, 0, false}, std::ratio<1>>::text() ==
        "SigmoidRouter<8, 1>");
  CHECK(ExpertChoiceRouter<8, 2, ExpertChoice{Group::batch, false}>::text() == "ExpertChoiceRouter<8, 2>");
  CHECK(AllExperts<8, false>::text() == "AllExperts<8>");
  CHECK(SharedExperts<HashRouter<8, 2>, 1, Shared::plain>::text() == "SharedExperts<HashRouter<8, 2>, 1>");
  CHECK(Dropping<TopKRouter<8, 2>, Drop::slot_major, Group::batch, Round::down>::text() ==
        "Dropping<TopKRouter<8, 2>, Drop::slot_major>");
}
