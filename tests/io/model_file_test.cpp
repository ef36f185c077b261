#include <moegpt/io.hpp>

#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

#include <fstream>
#include <memory>

using namespace moegpt;

namespace {

constexpr Config config{
    .vocab = 9, .context = 8, .dim = 8, .layers = 2, .heads = 2, .norm = Norm::rms, .gated = true};
using Model = GPT<config, TopKRouter<4, 2>>;

struct TemporaryFile {
  TemporaryFolder folder;
  std::string path = (folder / "model.safetensors").string();
};

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "no error";
}
bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a model read from its file has the same logits, options and tokenizer") {
  const TemporaryFile file;
  Model model, other;
  init(model, Key{1});
  model.options = {.norm_epsilon = 1e-6,
                   .rotary_base = 5000,
                   .attention_scale = 0.1,
                   .capacity_factor = 1.25,
                   .min_capacity = 4};
  const Tokenizer tokenizer = Tokenizer::characters("abcdefgh\n");
  save(file.path, model, tokenizer);
  Tokenizer read;
  load(file.path, other, read);
  CHECK(other.options == model.options);
  CHECK(read == tokenizer);
  Model::Workspace work{{1, 8}, {}, {}, Use::inference};
  Model::Cache cache, other_cache;
  const std::vector<int> ids{1, 2, 3, 8};
  const auto first = model.logits(ids, work, cache);
  const std::vector<float> logits(first.data, first.data + 4 * 9);
  const auto second = other.logits(ids, work, other_cache);
  CHECK(std::equal(logits.begin(), logits.end(), second.data));
}

TEST_CASE("options are stored with the weights of a model, whichever functions write and read them") {
  const TemporaryFile file;
  Model model;
  init(model, Key{1});
  model.options = {.norm_epsilon = 1e-6,
                   .rotary_base = 5000,
                   .attention_scale = 0.1,
                   .capacity_factor = 1.25,
                   .min_capacity = 4,
                   .qkv_clip = 8,
                   .embedding_scale = 12,
                   .residual_scale = 0.22,
                   .logit_scale = 1.0 / 6,
                   .rotary_factor = 4,
                   .rotary_context = 8192,
                   .rotary_fast = 31,
                   .rotary_slow = 2,
                   .rotary_magnitude = 1.5};
  Model from_model_file, from_bare_weights;
  save(file.path, model, Tokenizer::characters("abc"));
  load_safetensors(file.path, from_model_file);
  CHECK(from_model_file.options == model.options);
  save_safetensors(file.path, model, {{"moegpt.options.norm_epsilon", "1"}});  // the model knows better
  load_safetensors(file.path, from_bare_weights);
  CHECK(from_bare_weights.options == model.options);
}

TEST_CASE("weights without options keep the model's options, and unknown or invalid options are rejected") {
  const TemporaryFile file;
  const auto with = [&](const char* key, const char* value) {
    const Model zeros;
    std::vector<NamedTensor> tensors;
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto& w) {
          if (!w.empty()) tensors.push_back({path, DType::f32, {w.shape.begin(), w.shape.end()}, w.data()});
        },
        zeros);
    save_safetensors(file.path, std::move(tensors), Metadata{{key, value}});
  };
  Model model;
  model.options.norm_epsilon = 0.5;
  model.options.capacity_factor = 2;
  const ModelOptions own = model.options;
  with("author", "somebody");
  load_safetensors(file.path, model);
  CHECK(model.options == own);
  init(model, Key{1});
  const float before = model.trunk.token_embedding.weight[0];
  for (const auto& [key, value] : {std::pair{"moegpt.options.new_one", "1"},
                                   {"moegpt.options.norm_epsilon", "small"},
                                   {"moegpt.options.norm_epsilon", "nan"},
                                   {"moegpt.options.norm_epsilon", ""}}) {
    with(key, value);
    CHECK(contains(message_of([&] { load_safetensors(file.path, model); }), "option "));
    CHECK(model.options == own);
    CHECK(model.trunk.token_embedding.weight[0] == before);
  }
  with("moegpt.options.norm_epsilon", "0.25");
  load_safetensors(file.path, model);
  CHECK(model.options == ModelOptions{.norm_epsilon = 0.25});  // the others by the file's version
}

TEST_CASE("a file of another model names the type to compile, and changes nothing") {
  const TemporaryFile file;
  Model model;
  init(model, Key{1});
  save(file.path, model, Tokenizer::characters("abc"));
  using Other = GPT<Config{.vocab = 9, .context = 8, .dim = 12, .layers = 2, .heads = 2}, TopKRouter<4, 1>>;
  Other other;
  Tokenizer tokenizer;
  const std::string text = message_of([&] { load(file.path, other, tokenizer); });
  CHECK(contains(text,
                 " holds a 'GPT<Config{.vocab = 9, .context = 8, .dim = 8, .layers = 2, .heads = 2, "
                 ".norm = Norm::rms, .gated = true}, TopKRouter<4, 2>>"));
  CHECK(contains(text, to_text<Other>()));
  CHECK(contains(text,
                 ": '.dim is 8, expected 12; .gated is true, expected the default; .norm is Norm::rms, "
                 "expected the default; router is TopKRouter<4, 2>, expected TopKRouter<4, 1>'. Compile"));
  CHECK(count_weights(other) > 0);
  for_each_weight(
      [](const auto& w) {
        for (float x : w) REQUIRE(x == 0);
      },
      other);
  CHECK(model_text(file.path) == to_text<Model>());
  CHECK(to_text<Model::Trunk>() == "Transformer" + to_text<Model>().substr(3));
}

TEST_CASE("a file of another block layout is rejected, with the layout to compile") {
  const TemporaryFile file;
  constexpr auto with = [](Residual residual, LayerSet mixture_at) {
    return Config{.vocab = 9,
                  .context = 8,
                  .dim = 8,
                  .layers = 3,
                  .heads = 2,
                  .residual = residual,
                  .mixture_at = mixture_at};
  };
  GPT<with(Residual::post_norm, {0, 2}), TopKRouter<4, 2>> model;
  save(file.path, model, Tokenizer::characters("abc"));
  Tokenizer tokenizer;
  GPT<with(Residual::post_norm, {0, 1}), TopKRouter<4, 2>> other_mixtures;  // weights of the same shapes
  GPT<with(Residual::no_norm, {0, 2}), TopKRouter<4, 2>> other_norms;
  const std::string wanted =
      " holds a 'GPT<Config{.vocab = 9, .context = 8, .dim = 8, .layers = 3, .heads = 2, "
      ".residual = Residual::post_norm, .mixture_at = {0, 2}}, TopKRouter<4, 2>>";
  CHECK(contains(message_of([&] { load(file.path, other_mixtures, tokenizer); }), wanted));
  CHECK(contains(message_of([&] { load(file.path, other_norms, tokenizer); }), wanted));
  GPT<with(Residual::post_norm, [](int layer) { return layer % 2 == 0; }), TopKRouter<4, 2>>
      same;  // said otherwise
  load(file.path, same, tokenizer);
}

TEST_CASE("a Config's text is C++ with all fields that differ from their defaults") {
  CHECK(to_text(Config{.vocab = 9,
                       .context = 8,
                       .dim = 8,
                       .layers = 3,
                       .heads = 2,
                       .dense_hidden = 40,
                       .mask = Mask::full,
                       .residual = Residual::no_norm,
                       .dense_first = 1,
                       .moe_every = 2}) ==
        "Config{.vocab = 9, .context = 8, .dim = 8, .layers = 3, .heads = 2, .dense_hidden = 40, .mask = "
        "Mask::full, "
        ".residual = Residual::no_norm, .dense_first = 1, .moe_every = 2}");
  CHECK(to_text(Config{.vocab = 9, .context = 8, .dim = 8, .layers = 3, .heads = 2, .mixture_at = {2}}) ==
        "Config{.vocab = 9, .context = 8, .dim = 8, .layers = 3, .heads = 2, .mixture_at = {2}}");
  CHECK(to_text(Config{.vocab = 9,
                       .context = 8,
                       .dim = 8,
                       .layers = 3,
                       .heads = 2,
                       .window = 4,
                       .window_at = {0, 2},
                       .local = Local::two_blocks,
                       .stride = 3}) ==
        "Config{.vocab = 9, .context = 8, .dim = 8, .layers = 3, .heads = 2, .window = 4, "
        ".window_at = {0, 2}, .local = Local::two_blocks, .stride = 3}");
}

TEST_CASE("a tokenizer that does not fit the model is rejected before anything is written") {
  const TemporaryFile file;
  const Model model;
  CHECK(contains(message_of([&] { save(file.path, model, Tokenizer::bytes()); }),
                 "256 tokens, the model only 9"));
  CHECK_FALSE(std::filesystem::exists(file.path));
}

TEST_CASE("bare weights are not a model file") {
  const TemporaryFile file;
  Model model;
  init(model, Key{1});
  save_safetensors(file.path, model);
  Tokenizer tokenizer;
  CHECK(contains(message_of([&] { load(file.path, model, tokenizer); }),
                 "no \"moegpt.model\" in its metadata"));
}

TEST_CASE("the text of a router is its C++ type") {
  CHECK(TopKRouter<8, 2>::text() == "TopKRouter<8, 2>");
  CHECK(TopKRouter<8, 1>::text() == "TopKRouter<8, 1>");
  CHECK(TopKRouter<8, 2, TopK{.gates = Gates::probability, .bias = true}>::text() ==
        "TopKRouter<8, 2, TopK{.gates = Gates::probability, .bias = true}>");
  CHECK(AllowConstantGate<TopKRouter<4, 1, TopK{.gates = Gates::renormalised}>>::text() ==
        "AllowConstantGate<TopKRouter<4, 1, TopK{.gates = Gates::renormalised}>>");
  CHECK(NoisyTopKRouter<8, 2, NoisyTopK{.bias = true}>::text() ==
        "NoisyTopKRouter<8, 2, NoisyTopK{.bias = true}>");
  CHECK(AllowNonCausal<ExpertChoiceRouter<8, 2>>::text() == "AllowNonCausal<ExpertChoiceRouter<8, 2>>");
}

TEST_CASE("a file whose options no model can have is rejected and changes nothing") {
  const TemporaryFile file;
  Model model, other;
  init(model, Key{1});
  model.options.norm_epsilon = std::nan("");
  Tokenizer tokenizer = Tokenizer::characters("abc");
  save(file.path, model, tokenizer);
  CHECK(contains(message_of([&] { load(file.path, other, tokenizer); }),
                 "option 'norm_epsilon' is 'nan', expected a number"));
  CHECK(other.options == ModelOptions{});
  CHECK(other.head.weight[0] == 0);
}

TEST_CASE("a file with a weight that is not a number changes neither the model nor the tokenizer") {
  const TemporaryFile file;
  const auto model = std::make_unique<Model>(), other = std::make_unique<Model>();
  init(*model, Key{1});
  save(file.path, *model, Tokenizer::characters("abc"));
  std::fstream(file.path, std::ios::in | std::ios::out | std::ios::binary)
      .seekp(-4, std::ios::end)
      .write("\xff\xff\xff\xff", 4);
  Tokenizer tokenizer = Tokenizer::characters("xy");
  CHECK(contains(message_of([&] { load(file.path, *other, tokenizer); }), "expected a finite"));
  CHECK(tokenizer.decode(tokenizer.encode("xyyx")) == "xyyx");
  for_each_weight(
      [](const auto& w) { CHECK(std::all_of(w.begin(), w.end(), [](float x) { return x == 0 || x == 1; })); },
      *other);
}

TEST_CASE("the difference of two types is that of their parts, whatever the texts are") {
  using detail::type_difference;
  const auto layers = [](const char* at) {
    return "GPT<Config{.vocab = 9, .mixture_at = {" + std::string(at) + "}, .tied = true}, Dense>";
  };
  CHECK(type_difference(layers("0, 2"), layers("0, 2")) == "");
  CHECK(type_difference(layers("0, 2"), layers("1")) == ".mixture_at is {0, 2}, expected {1}");
  CHECK(type_difference("Transformer<Config{.vocab = 9}, Dense>", "GPT<Config{.vocab = 9}, Dense>") ==
        "kind is Transformer, expected GPT");
  for (const char* odd :
       {"", "{", "}", "Config{", "Config{}", "Config{.a}", "Config{.a = ", "GPT<Config{}, ", "<"})
    CHECK(type_difference(odd, odd) == "");
}
