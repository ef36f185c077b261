#include <moegpt/io/type_text.hpp>

#include <moegpt/io.hpp>

#include "support.hpp"

#include <set>

using namespace moegpt;

namespace {

const std::string config_text = "Config{.vocab = 9, .context = 8, .dim = 8, .layers = 2, .heads = 2}";
std::string model_of(const std::string& recipe) { return "GPT<" + config_text + ", " + recipe + ">"; }
std::string error_in(const std::string& text) {
  return error_of([&] { parse_type(text); });
}

template <class Recipe>
void check_recipe() {
  const std::string text = model_of(Recipe::text());
  CAPTURE(text);
  CHECK(error_in(text) == "");
  if (error_in(text).empty()) CHECK(to_text(parse_type(text)) == text);
}

template <class Model>
void check_model() {
  const std::string text = to_text<Model>();
  CAPTURE(text);
  CHECK(error_in(text) == "");
  if (error_in(text).empty()) CHECK(to_text(parse_type(text)) == text);
}

}  // namespace

TEST_CASE("the text of every preset is read and written anew") {
  using namespace presets;
  check_model<ModelOf<makemoe<>>>();
  check_model<ModelOf<gpt2_moe<>>>();
  check_model<ModelOf<switch_base<>>>();
  check_model<ModelOf<gshard<>>>();
  check_model<ModelOf<glam<>>>();
  check_model<ModelOf<mixtral<>>>();
  check_model<ModelOf<olmoe<>>>();
  check_model<ModelOf<qwen_moe<>>>();
  check_model<ModelOf<qwen3_moe<>>>();
  check_model<ModelOf<granite_moe<>>>();
  check_model<ModelOf<deepseek_moe<>>>();
  check_model<ModelOf<mixtral<>>::Trunk>();
}

TEST_CASE("the text of every router and wrapper is read and written anew") {
  using Top = TopKRouter<5, 2>;
  check_recipe<Top>();
  check_recipe<AllowConstantGate<TopKRouter<5, 1, TopK{.gates = Gates::renormalised}>>>();
  check_recipe<TopKRouter<4, 4, TopK{.gates = Gates::probability, .bias = true, .selection_bias = true}>>();
  check_recipe<TopKRouterWith<5, 3, PNormGates<2>>>();
  check_recipe<TopKRouterWith<5, 3, PNormGates<1>, true>>();
  check_recipe<TopKRouterWith<5, 3, PNormGates<3, std::ratio<5, 2>>>>();
  check_recipe<TopPRouter<5, 4>>();
  check_recipe<TopPRouter<5, 4, std::ratio<3, 5>, Gates::probability>>();
  check_recipe<NoisyTopKRouter<5, 2>>();
  check_recipe<
      NoisyTopKRouter<5, 2, NoisyTopK{.bias = true, .noise_floor = true, .detached_threshold = true}>>();
  check_recipe<NoisyTopKRouter<5, 2, NoisyTopK{.noise_floor = true}>>();
  check_recipe<SigmoidRouter<8, 3>>();
  check_recipe<SigmoidRouter<8, 3, Sigmoid{.groups = 4, .groups_kept = 2}, std::ratio<5, 2>>>();
  check_recipe<
      SigmoidRouter<5, 2, Sigmoid{.normalise = false, .selection_bias = false, .root_softplus = true}>>();
  check_recipe<CosineRouter<5, 2, 3>>();
  check_recipe<GShardRouter<5>>();
  check_recipe<GShardRouter<5, Second::all>>();
  check_recipe<GShardRouter<5, Second::none>>();
  check_recipe<GShardRouter<5, Second::threshold, std::ratio<2, 5>>>();
  check_recipe<AllExperts<4>>();
  check_recipe<AllExperts<4, true>>();
  check_recipe<HashRouter<65536, 2>>();
  check_recipe<AllowNonCausal<ExpertChoiceRouter<5>>>();
  check_recipe<AllowNonCausal<ExpertChoiceRouter<5, 1, ExpertChoice{.group = Group::sequence}>>>();
  check_recipe<ExpertChoiceRouter<5, 1, ExpertChoice{.group = Group::position}>>();
  check_recipe<AllowNonCausal<ThresholdExpertChoice<5>>>();
  check_recipe<AllowNonCausal<SoftMoE<5, 3>>>();
  check_recipe<HierarchicalRouter<NoisyTopKRouter<3, 2>, GShardRouter<4>>>();
  check_recipe<InputJitter<Top>>();
  check_recipe<InputJitter<Top, std::ratio<1, 2>>>();
  check_recipe<Masked<Top, 3>>();
  check_recipe<SharedExperts<Top>>();
  check_recipe<SharedExperts<Top, 2, Shared::gated>>();
  check_recipe<SharedExperts<Masked<InputJitter<Top>>, 2, Shared::weighted>>();
  check_recipe<WithSharedProjection<Top, 12>>();
  check_recipe<WithSharedProjection<Top, 12, Activation::gelu_erf>>();
  check_recipe<WithSharedProjection<Top, 12, Activation::tanh>>();
  check_recipe<Dropping<Top, Drop::token_order, Group::sequence>>();
  check_recipe<Dropping<Top, Drop::slot_major, Group::position>>();
  check_recipe<AllowNonCausal<Dropping<Top, Drop::batch_prioritised>>>();
  check_recipe<AllowNonCausal<Dropping<Top, Drop::probability, Group::batch, Round::up>>>();
}

TEST_CASE("every field of a Config and every value of its enumerations is read and written anew") {
  Config c{.vocab = 9, .context = 8, .dim = 8, .layers = 3, .heads = 2};
  const auto check = [&](const Config& config) {
    const std::string text = "GPT<" + to_text(config) + ", Dense>";
    CAPTURE(text);
    CHECK(to_text(parse_type(text)) == text);
  };
  check(c);
  for (const Residual residual : {Residual::pre_norm, Residual::post_norm, Residual::no_norm}) {
    c.residual = residual;
    check(c);
  }
  for (std::size_t i = 0; i < activation_names.size(); ++i) {
    c.activation = static_cast<Activation>(i);
    check(c);
  }
  c.kv_heads = 1, c.head_dim = 6, c.hidden = 5, c.dense_hidden = 7, c.window = 4, c.dense_first = 1,
  c.moe_every = 2;
  c.mask = Mask::full, c.norm = Norm::rms, c.positions = Positions::rotary;
  c.gated = c.attention_bias = c.head_bias = c.tied = true, c.output_bias = c.expert_bias = false;
  check(c);
  c.query_key_norm = QueryKeyNorm::head, c.rotary_dim = 4, c.pairing = Pairing::adjacent;
  check(c);
  c.query_key_norm = QueryKeyNorm::full;
  for (const RotaryScaling scaling :
       {RotaryScaling::linear, RotaryScaling::ntk, RotaryScaling::yarn, RotaryScaling::llama3}) {
    c.rotary_scaling = scaling;
    check(c);
  }
  c.mixture_at = {0, 2};
  check(c);
  c.window_at = {1}, c.stride = 3;
  check(c);
  for (const Local local : {Local::block, Local::two_blocks}) {
    c.local = local;
    check(c);
  }
}

TEST_CASE("spaces and arguments with default values may be left out, and the text is in one form") {
  CHECK(to_text(parse_type("GPT<Config{.vocab=9,.context=8,.dim=8,.layers=2,.heads=2},TopKRouter<4,2>>")) ==
        model_of("TopKRouter<4, 2>"));
  CHECK(to_text(parse_type(" Transformer < Config { .vocab = 9 , .context = 8 , .dim = 8 , .layers = 2 , "
                           ".heads = 2 } , HashRouter < 4 > > ")) ==
        "Transformer<" + config_text + ", HashRouter<4>>");
}

TEST_CASE("nothing but the library's names and numbers in their ranges is a model type") {
  const std::string good = model_of("TopKRouter<4, 2>");
  const auto with = [&](std::string_view part, const std::string& instead) {
    std::string text = good;
    return text.replace(text.find(part), part.size(), instead);
  };
  std::string nested = "TopKRouter<4, 2>", deep = "TopKRouter<4, 2>";
  for (int i = 0; i < 9; ++i) nested = "AllowNonCausal<" + nested + ">";
  for (int i = 0; i < 100; ++i) deep = "Masked<" + deep + ">";
  REQUIRE(error_in(good) == "");
  CHECK(error_in(model_of(nested)) == "");
  const std::string zero("\0", 1);
  const std::string texts[] = {
      "", " ", "GPT", "your router", "Dense", config_text, "int", good.substr(0, good.size() - 1),
      // more than a type
      good + ">", good + ";", good + "; int x", good + " model; system(\"id\")", good + "\n", "\n" + good,
      good + zero, good + zero + "more", good + " // comment", good + " /* comment */", good + "\\\n",
      with(", ", ", /* a */ "), with("Config", "#include \"/etc/passwd\"\nConfig"),
      with("TopKRouter", "\n#include </etc/passwd>\nTopKRouter"), good + "\r\n#define x", good + "?\?/",
      "?\?=" + good, with("Config{", "Config<%"), with("{", "<:"), good + "\t", "\xEF\xBB\xBF" + good,
      // of a shell
      good + "`id`", good + "$(id)", good + "${HOME}", good + " && id", good + " | id", good + "'",
      good + "\"", "'" + good + "'", "-include /etc/passwd", "@/etc/passwd",
      with("TopKRouter<4, 2>", "$(id)"), with("9", "`id`"), with("9", "\"9\""),
      with("TopKRouter", "../TopKRouter"), good + " > file",
      // numbers
      with("4", "-4"), with("4", "-0"), with("4", "+4"), with("4", "04"), with("4", "0x4"),
      with("4", "0b100"), with("4", "4u"), with("4", "4.0"), with("4", "4e0"), with("4", "1'000"),
      with("4", "'4'"), with("4", "0"), with("4", ""), with("4", "1025"),
      with("4", "99999999999999999999999999"), with("4", "18446744073709551620"),
      with("layers = 2", "layers = 2000000000"), with("layers = 2", "layers = 4097"),
      with("vocab = 9", "vocab = 0"), with("vocab = 9", "vocab = 9 + 1"), with("4", "2 + 2"),
      with("4", "2*2"), with("4", "(4)"), with("4", "sizeof(int)"), with("4", "std::size(\"abc\")"),
      with("4", "[]{ return 4; }()"), with("4", "4, 2, 3"), with("4", "true"),
      with("4", "\xD9\xA4"),  // an Arabic digit
      // names
      with("TopKRouter", "TopkRouter"), with("TopKRouter", "TopKRouterX"),
      with("TopKRouter", "moegpt::TopKRouter"), with("TopKRouter", "::TopKRouter"),
      with("TopKRouter<4, 2>", "MyRouter"), with("TopKRouter", "MyRouter"),
      with("TopKRouter<4, 2>", "Top\xD0\x9ARouter<4, 2>"),
      with("TopKRouter<4, 2>", "TopKRouter<4, 2>::For<4>"), with("TopKRouter<4, 2>", "decltype([] {})"),
      with("TopKRouter<4, 2>", "std::string"), with("TopKRouter<4, 2>", "Gates::probability"),
      with("TopKRouter<4, 2>", "PNormGates<2>"), with("TopKRouter<4, 2>", "TopKRouter"),
      with("TopKRouter<4, 2>", "TopKRouter<>"), with("TopKRouter<4, 2>", "TopKRouter<4>"),
      with("TopKRouter<4, 2>", "TopKRouter<4, 2, >"), with("TopKRouter<4, 2>", "TopKRouter<4, 2, 3>"),
      with("TopKRouter<4, 2>", "TopKRouter<4 2>"),
      with("TopKRouter<4, 2>", "TopKRouter<4, 2, TopK{.gates = Gates::other}>"),
      with("TopKRouter<4, 2>", "TopKRouter<4, 2, TopK{.gates = Drop::probability}>"),
      with("TopKRouter<4, 2>", "TopKRouter<4, 2, TopK{.bias = 1}>"),
      with("TopKRouter<4, 2>", "TopKRouter<4, 2, TopK{.bias = true, .gates = Gates::probability}>"),
      with("TopKRouter<4, 2>", "TopKRouter<4, 2, TopK{.bias = true, .bias = true}>"),
      with("TopKRouter<4, 2>", "TopKRouter<4, 2, TopK{, .bias = true}>"),
      with("TopKRouter<4, 2>", "TopKRouter<4, 2, TopK{.bias = true"),
      with("TopKRouter<4, 2>", "TopKRouter<4, 2>, float"),
      with("TopKRouter<4, 2>", "TopPRouter<4, 2, std::ratio<1, 0>>"),
      with("TopKRouter<4, 2>", "TopPRouter<4, 2, std::ratio<-1, 2>>"),
      with("TopKRouter<4, 2>", "TopPRouter<4, 2, std::milli>"),
      with("TopKRouter<4, 2>", "WithExperts<TopKRouter<4, 2>, LinearExpert>"), model_of(deep),
      with(".heads = 2", ""), with(", .heads = 2", ""), with(".heads = 2", ".heads = 2, .extra = 1"),
      with(".heads = 2", ".heads = 2, .tied = 1"), with(".heads = 2", ".heads = 2, .kv_heads = -0"),
      with(".heads = 2", ".heads = 2, .kv_heads = 00"), with(".heads = 2", ".heads = 2, .mixture_at = {}"),
      with(".heads = 2", ".heads = 2, .mixture_at = {1, 0}"),
      with(".heads = 2", ".heads = 2, .mixture_at = {0, 0}"),
      with(".heads = 2", ".heads = 2, .mixture_at = {256}"),
      with(".heads = 2", ".heads = 2, .mixture_at = [](int i) { return i > 0; }"),
      with(".context = 8, .dim = 8", ".dim = 8, .context = 8"), with("}", ""), with("{", "("),
      std::string(5000, ' ') + good, std::string(5000, '<')};
  std::set<std::string> unique;
  for (const std::string& text : texts) {
    CAPTURE(text);
    CHECK(error_in(text).starts_with("moegpt: the text of a model type has "));
    for (const char c : error_in(text)) CHECK((static_cast<unsigned char>(c) >= 0x20 && c != 0x7f));
    unique.insert(text);
  }
  CHECK(unique.size() == std::size(texts));
}

TEST_CASE("random changes of a text are rejected or are another type, which is written in the same form") {
  const std::string good = model_of(
      "SharedExperts<Dropping<SigmoidRouter<8, 2, Sigmoid{.normalise = true, .selection_bias = true, "
      ".groups = 4, .groups_kept = 2, .root_softplus = false}, std::ratio<5, 2>>, Drop::slot_major>, 2>");
  REQUIRE(to_text(parse_type(good)) == good);
  Rng rng(5);
  int read = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = good;
    for (std::uint64_t changes = 1 + rng.below(3); changes > 0; --changes) {
      const std::size_t at = rng.below(text.size());
      if (rng.below(2) == 0)
        text[at] = static_cast<char>(rng.below(256));
      else
        text = text.substr(0, at) + text.substr(rng.below(text.size()));
    }
    try {
      const std::string again = to_text(parse_type(text));
      ++read;
      REQUIRE(again.find_first_not_of(
                  "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_ <>{}.,:=") == again.npos);
      REQUIRE(to_text(parse_type(again)) == again);
    } catch (const std::invalid_argument&) {
    }
  }
  CHECK(read > 20);
}

TEST_CASE("a message states the byte, what was found and what was expected") {
  CHECK(error_in(model_of("TopKRouter<4, 1e3>")) ==
        "moegpt: the text of a model type has 'e3>>' at byte 88, expected >");
  CHECK(error_in(model_of("TopKRouter<0, 2>")) ==
        "moegpt: the text of a model type has '0, 2>>' at byte 84, expected experts, a decimal number from 1 "
        "to 1024");
  CHECK(has(error_in(model_of("your router")),
            "has 'your router>' at byte 73, expected router, one of Dense, TopK"));
  CHECK(has(error_in("GPT<"), "has its end at byte 4, expected config, one of Config"));
  CHECK(has(error_in(model_of("GShardRouter<4, Second::third>")),
            "expected one of ::all, ::none, ::threshold"));
}
