#pragma once
// config.json of Hugging Face's transformers as a model type and its options. A key that is not known is an
// error, because it may change what the weights mean.
#include <moegpt/io/huggingface_families.hpp>
#include <moegpt/io/huggingface_keys.hpp>
#include <moegpt/io/huggingface_rotary.hpp>
#include <moegpt/io/model_file.hpp>
#include <moegpt/io/type_text.hpp>

#include <filesystem>
#include <numeric>
#include <sstream>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct HuggingFaceModel {
  std::string family{};  // model_type, of huggingface::families
  Config config{};
  std::string recipe = "Dense";  // text of the router specification
  ModelOptions options{};
  Objective objective{};  // what the family is trained with

  // As to_text<Model>().
  std::string type() const {
    std::string text = "GPT<";
    text += to_text(config);
    text += ", ";
    text += recipe;
    return text += ">";
  }
};

namespace huggingface {

// The same for all ways to state one model: defaults instead of numbers equal to them, and lists of layers.
inline Config canonical(Config c) {
  if (c.kv_heads == c.heads) c.kv_heads = 0;
  if (Index{c.head_dim} * c.heads == c.dim) c.head_dim = 0;
  if (c.rotary_dim == c.attention().width()) c.rotary_dim = 0;
  if (c.window >= c.context) c.window = 0, c.window_at = LayerSet{};
  int windows = 0, mixtures = 0;
  for (int layer = 0; layer < c.layers; ++layer)
    windows += c.attention().has_window(layer), mixtures += c.is_moe(layer);
  if (windows == c.layers) c.window_at = LayerSet{};
  if (mixtures == 0) c.hidden = c.dense_width();
  if (mixtures == 0 || mixtures == c.layers || c.dense_width() == c.expert_width()) c.dense_hidden = 0;
  if (mixtures == 0 || mixtures == c.layers) {
    c.mixture_at = LayerSet{}, c.dense_first = 0, c.moe_every = 1;
  } else if (c.layers <= LayerSet::most) {
    const Config stated = c;
    c.mixture_at = [&](int layer) { return layer < stated.layers && stated.is_moe(layer); };
    c.dense_first = 0, c.moe_every = 1;
  }
  if (c.hidden == 4 * c.dim) c.hidden = 0;
  return c;
}

// Of query-key products, if no other is stated.
inline double usual_attention_scale(const Config& c) { return 1 / std::sqrt(double(c.attention().width())); }

class ConfigReader : ConfigKeys {
 public:
  using ConfigKeys::ConfigKeys;

  HuggingFaceModel read() {
    model_.family = fields_.text("model_type");
    used_.insert("model_type");
    family_ = find_family(model_.family);
    if (!family_)
      reject_file(name_, "\"model_type\" is ", shown(model_.family), ", expected one of ", family_names());
    model_.family == "gpt2" ? gpt2() : llama();
    try {
      check_options(model_.options);
    } catch (const std::invalid_argument& error) {
      reject_file(name_, "states a number out of range: ", error.what());
    }
    check_all_known(model_.family);
    return std::move(model_);
  }

 private:
  static constexpr Index most_width = 1 << 20;
  void gpt2() {
    Config& c = model_.config;
    c.vocab = integer("vocab_size", 1, 1 << 22), c.context = integer("n_positions", 1, most_width);
    c.dim = integer("n_embd", 1, most_width), c.layers = integer("n_layer", 1, 4096),
    c.heads = integer("n_head", 1, 4096);
    check_divides("n_embd", c.dim, "n_head", c.heads);
    c.hidden = integer_or("n_inner", 0, 1, most_width);
    if (c.hidden == 4 * c.dim) c.hidden = 0;
    c.activation = activation_of("activation_function", "gelu_new");
    c.attention_bias = true;
    c.tied = flag_or("tie_word_embeddings", true);
    expect("scale_attn_weights", {true});
    for (const char* key :
         {"scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"})
      expect(key, {false});
    model_.options.norm_epsilon = number_or("layer_norm_epsilon", 1e-5);
  }
  // Blocks of Llama: RMSNorm, rotary positions, gated experts.
  void llama() {
    Config& c = model_.config;
    c.vocab = integer("vocab_size", 1, 1 << 22),
    c.context = integer("max_position_embeddings", 1, most_width);
    c.dim = integer("hidden_size", 1, most_width), c.layers = integer("num_hidden_layers", 1, 4096);
    c.norm = Norm::rms, c.positions = Positions::rotary, c.gated = true;
    c.activation = activation_of("hidden_act", "silu");
    c.output_bias = c.expert_bias = false;
    c.tied = flag_or("tie_word_embeddings", false);
    model_.options.norm_epsilon = number_or("rms_norm_eps", family_->norm_epsilon);
    attention();
    rotary();
    window();
    if (family_->mixtures == Mixtures::none || family_->mixtures == Mixtures::every_layer)
      c.hidden = integer("intermediate_size", 1, most_width);
    else
      c.hidden = integer("moe_intermediate_size", 1, most_width);
    if (family_->mixtures != Mixtures::none) mixtures();
    if (c.hidden == 4 * c.dim) c.hidden = 0;
    if (model_.family == "llama") c.expert_bias = flag_or("mlp_bias", false);
    if (model_.family == "olmoe") model_.options.qkv_clip = number_or("clip_qkv", 0);
    if (model_.family == "granitemoe") multipliers();
  }
  void attention() {
    Config& c = model_.config;
    c.heads = integer("num_attention_heads", 1, 4096);
    if (family_->key_value_heads) fields_.at("num_key_value_heads");
    c.kv_heads = integer_or("num_key_value_heads", 0, 1, 4096);
    if (c.kv_heads > 0) check_divides("num_attention_heads", c.heads, "num_key_value_heads", c.kv_heads);
    if (c.kv_heads == c.heads) c.kv_heads = 0;
    c.head_dim = integer_or("head_dim", family_->head_dim, 1, most_width);
    if (c.head_dim == 0) check_divides("hidden_size", c.dim, "num_attention_heads", c.heads);
    if (Index{c.head_dim} * c.heads == c.dim) c.head_dim = 0;
    c.query_key_norm = family_->norms;
    if (model_.family == "glm4_moe" && !flag_or("use_qk_norm", false)) c.query_key_norm = QueryKeyNorm::none;
    if ((model_.family == "olmoe" || model_.family == "deepseek") && c.head_dim != 0)  // not a key of theirs
      reject_file(name_, "\"head_dim\" is ", c.head_dim, ", expected ", c.dim / c.heads,
                  " = \"hidden_size\" / \"num_attention_heads\"");
    if (family_->biases_usual) {
      c.attention_bias = flag_or("qkv_bias", true);
      expect("attention_bias", {true});
    } else if (family_->biases != Biases::none) {
      c.attention_bias = flag_or("attention_bias", false);
      c.output_bias = c.attention_bias && family_->biases == Biases::all;
    }
  }
  void rotary() {
    RotaryKeys keys{.numbers = {.rotary_base = number_or("rope_theta", family_->rotary_base)}};
    const bool partial = family_->partial_rotary != 1;
    keys.partial = number_or("partial_rotary_factor", family_->partial_rotary);
    std::optional<RotaryKeys> found;
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
      if (!has(key) || json_[key] == nlohmann::json::object()) continue;
      const RotaryKeys stated = rotary_keys(name_, key, json_[key], keys, model_.config.context);
      if (found && *found != stated)
        reject_file(name_, "\"rope_scaling\" and \"rope_parameters\" state different rotary positions");
      found = stated;
    }
    if (found) keys = *found;
    if (!partial && keys.partial != 1)
      reject_file(name_, "\"partial_rotary_factor\" is ", keys.partial, ", expected 1 for ", model_.family);
    const int width = model_.config.attention().width();
    const double rotated = std::floor(width * keys.partial);
    if (!(rotated >= 2 && rotated <= width) || static_cast<int>(rotated) % 2 != 0)
      reject_file(name_, "rotates ", rotated, " features of a head of ", width,
                  ", expected an even number from 2 to ", width);
    if (keys.scaling == RotaryScaling::yarn && !(keys.numbers.rotary_base > 1))
      reject_file(name_, "\"rope_theta\" is ", keys.numbers.rotary_base, ", expected more than 1");
    keys.numbers.norm_epsilon = model_.options.norm_epsilon;
    model_.options = keys.numbers;
    model_.config.rotary_scaling = keys.scaling;
    if (static_cast<int>(rotated) != width) model_.config.rotary_dim = static_cast<int>(rotated);
  }
  void window() {
    Config& c = model_.config;
    const Windows windows = family_->windows;
    const bool dots = model_.family == "dots1";
    if (windows == Windows::none) {
      expect<std::nullptr_t>("sliding_window", {nullptr});
      expect("use_sliding_window", {false});
    }
    int found = integer_or("sliding_window", 0, 0, 1 << 30);
    if (dots && !fields_.has("sliding_window")) found = 4096;
    // Mixtral and dots.llm1 do not look at it.
    if (!flag_or("use_sliding_window", false) && model_.family != "mixtral" && !dots) found = 0;
    const int from = windows == Windows::late || windows == Windows::even_early
                         ? integer_or("max_window_layers", dots ? 62 : 28, 0, 1 << 30)
                         : 0;
    std::set<int> layers;
    for (int layer = 0; found > 0 && layer < c.layers; ++layer)
      if (windows == Windows::all || (windows == Windows::late && layer >= from) ||
          (windows == Windows::even_early && layer < from && layer % 2 == 0))
        layers.insert(layer);
    if (has("layer_types")) {
      const nlohmann::json& types = fields_.list("layer_types");
      if (std::ssize(types) != c.layers)
        reject_file(name_, "\"layer_types\" has ", types.size(), " layers, expected ", c.layers);
      for (int layer = 0; layer < c.layers; ++layer) {
        const nlohmann::json& type = types[static_cast<std::size_t>(layer)];
        const bool slides = type == "sliding_attention";
        const bool free = windows == Windows::late || windows == Windows::even_early;
        if ((!slides && type != "full_attention") || (slides && found == 0) ||
            (!free && slides != layers.contains(layer)))
          reject_file(name_, "\"layer_types\" has ", shown(type.dump()), " for layer ", layer, ", expected ",
                      found > 0 && free        ? "\"full_attention\" or \"sliding_attention\""
                      : layers.contains(layer) ? "\"sliding_attention\""
                                               : "\"full_attention\"");
        slides ? static_cast<void>(layers.insert(layer)) : static_cast<void>(layers.erase(layer));
      }
    }
    if (layers.empty() || found >= c.context) return;
    c.window = found;
    if (std::ssize(layers) == c.layers) return;
    if (c.layers > LayerSet::most)
      reject_file(name_, "some of ", c.layers, " layers have a window, expected at most ", LayerSet::most,
                  " layers");
    c.window_at = [&](int layer) { return layers.contains(layer); };
  }

  int experts(std::initializer_list<const char*> keys) {
    const char* stated = nullptr;
    for (const char* key : keys)
      if (has(key)) {
        if (stated && json_[stated] != json_[key])
          reject_file(name_, "\"", stated, "\" is ", shown(json_[stated].dump()), " and \"", key, "\" ",
                      shown(json_[key].dump()), ": they are the same number");
        stated = key;
      }
    return integer(stated ? stated : *keys.begin(), 1, 1024);
  }
  // The router specification: scores are softmax, and `normalised` gates are divided by their sum.
  static std::string top_k(int experts, int active, bool normalised) {
    std::string text = "TopKRouter<";
    text += std::to_string(experts);
    text += ", ";
    text += std::to_string(active);
    if (active > 1) return text += normalised ? ">" : ", TopK{.gates = Gates::probability}>";
    if (!normalised) return text += ">";
    return "AllowConstantGate<" + text.append(", TopK{.gates = Gates::renormalised}>>");
  }
  // The same for sigmoid scores with a selection bias; only the best groups of experts are selected from.
  std::string sigmoid(int experts, int active, bool normalised) {
    const int groups = integer_or("n_group", 1, 1, 1024), kept = integer_or("topk_group", 1, 1, 1024);
    check_divides("n_routed_experts", experts, "n_group", groups);
    if (groups > 1 && experts / groups < 2)
      reject_file(name_, "\"n_group\" is ", groups, ", expected groups of 2 experts or more");
    if (kept > groups || kept * (experts / groups) < active)
      reject_file(name_, "\"topk_group\" is ", kept, ", expected at most the ", groups,
                  " groups, and enough for ", active, " experts");
    const double scale = number_or("routed_scaling_factor", 1);
    Index number = 0, divisor = 1;
    const bool sensible = scale > 0 && scale < 1e4;
    for (; sensible && divisor <= 100'000; divisor *= 10) {
      number = std::llround(scale * static_cast<double>(divisor));
      if (static_cast<double>(number) / static_cast<double>(divisor) == scale) break;
    }
    if (!sensible || divisor > 100'000 || number == 0)
      reject_file(name_, "\"routed_scaling_factor\" is ", scale,
                  ", expected a number above 0 and below 10000 of at most 5 decimals");
    const Index common = std::gcd(number, divisor);
    std::ostringstream text;
    text << "SigmoidRouter<" << experts << ", " << active;
    if (normalised != (active > 1) || groups > 1 || number != divisor)
      text << ", Sigmoid{.normalise = " << (normalised ? "true" : "false")
           << ", .selection_bias = true, .groups = " << groups
           << ", .groups_kept = " << (groups > 1 ? kept : 0) << ", .root_softplus = false}, std::ratio<"
           << number / common << ", " << divisor / common << ">";
    text << ">";
    return active == 1 && normalised ? "AllowConstantGate<" + text.str() + ">" : text.str();
  }
  void mixtures() {
    const bool every = family_->mixtures == Mixtures::every_layer;
    const bool deepseek = family_->mixtures == Mixtures::after_dense;
    const int all = deepseek ? experts({"n_routed_experts", "num_local_experts"})
                             : experts({"num_experts", "num_local_experts"});
    const int active = integer("num_experts_per_tok", 1, 1024);
    if (active > all)
      reject_file(name_, "\"num_experts_per_tok\" is ", active, ", expected at most the ", all, " experts");
    bool normalised = family_->always_normalised || flag_or("norm_topk_prob", family_->norm_topk_prob);
    if (model_.family == "deepseek" && active == 1) normalised = false;
    model_.recipe = family_->sigmoid ? sigmoid(all, active, normalised) : top_k(all, active, normalised);
    if (!deepseek) {
      model_.objective.balance = number_or("router_aux_loss_coef", model_.family == "olmoe" ? 0.01 : 0.001);
      model_.objective.balance_rule = BalanceRule::huggingface;
    }
    if (deepseek) after_dense();
    if (!deepseek && !every) sparse_step();
  }
  void share(int count, const char* how) {
    std::string text = "SharedExperts<";
    text += model_.recipe;
    text += ", ";
    text += std::to_string(count);
    text += how;
    model_.recipe = text += ">";
  }
  // Of Qwen.
  void sparse_step() {
    Config& c = model_.config;
    if (model_.family == "qwen2_moe") {
      const int shared = integer("shared_expert_intermediate_size", 1, most_width);
      if (shared % c.hidden != 0)
        reject_file(name_, "\"shared_expert_intermediate_size\" is ", shared, ", expected a multiple of ",
                    "\"moe_intermediate_size\", ", c.hidden);
      share(shared / c.hidden, ", Shared::gated");
    }
    const int step = integer_or("decoder_sparse_step", 1, 1, 4096);
    std::set<Index> dense;
    if (has("mlp_only_layers"))
      for (const Index layer : fields_.integers("mlp_only_layers", 0, c.layers - 1)) dense.insert(layer);
    c.moe_every = step;
    if (!dense.empty())
      choose_layers([&](int layer) { return (layer + 1) % step == 0 && !dense.contains(layer); });
    dense_width();
  }
  // Of DeepSeek.
  void after_dense() {
    Config& c = model_.config;
    const int dense = integer_or("first_k_dense_replace", model_.family == "glm4_moe" ? 1 : 0, 0, 4096);
    if (model_.family == "deepseek") {
      expect("scoring_func", {"softmax"});
      model_.objective.balance = number_or("aux_loss_alpha", 0.001);
      model_.objective.balance_rule =
          flag_or("seq_aux", true) ? BalanceRule::deepseek : BalanceRule::switch_transformer;
      if (has("n_shared_experts")) share(integer("n_shared_experts", 1, 1024), "");
      expect("mlp_bias", {false});
    } else {
      expect("scoring_func", {"sigmoid", "noaux_tc"});
      expect("topk_method", {"noaux_tc"});
      for (const char* key : {"aux_loss_alpha", "seq_aux"}) used_.insert(key);  // not of transformers
      share(model_.family == "glm4_moe" ? integer_or("n_shared_experts", 1, 1, 1024)
                                        : integer("n_shared_experts", 1, 1024),
            "");
    }
    for (const char* key : {"ep_size", "moe_implementation"}) used_.insert(key);  // how it was computed
    if (model_.family == "glm4_moe")
      for (const char* key : {"num_nextn_predict_layers", "num_mtp_layers"}) integer_or(key, 0, 0, 4096);
    const int step = integer_or("moe_layer_freq", 1, 1, 4096);
    if (model_.family != "deepseek") expect("moe_layer_freq", {1});
    c.dense_first = std::min(dense, c.layers);
    if (step > 1) {
      c.dense_first = 0;
      choose_layers([&](int layer) { return layer >= dense && layer % step == 0; });
    }
    dense_width();
  }
  template <class Predicate>
  void choose_layers(Predicate&& is_mixture) {
    Config& c = model_.config;
    if (c.layers > LayerSet::most)
      reject_file(name_, "some of ", c.layers, " layers are mixtures, expected at most ", LayerSet::most,
                  " layers");
    c.moe_every = 1;
    c.mixture_at = [&](int layer) { return layer < c.layers && is_mixture(layer); };
  }
  // Of layers that are no mixtures.
  void dense_width() {
    Config& c = model_.config;
    const int dense = integer("intermediate_size", 1, most_width);
    int mixtures = 0;
    for (int layer = 0; layer < c.layers; ++layer) mixtures += c.is_moe(layer);
    if (mixtures == 0) {
      c.hidden = dense, c.moe_every = 1, c.dense_first = 0, c.mixture_at = LayerSet{};
      model_.recipe = "Dense", model_.objective = {};
    } else if (mixtures < c.layers && dense != c.hidden) {
      c.dense_hidden = dense;
    }
  }
  // Of Granite.
  void multipliers() {
    ModelOptions& options = model_.options;
    options.embedding_scale = number_or("embedding_multiplier", 1);
    options.residual_scale = number_or("residual_multiplier", 1);
    const double scaling = number_or("logits_scaling", 1);
    if (!(scaling > 0)) reject_file(name_, "\"logits_scaling\" is ", scaling, ", expected a number above 0");
    options.logit_scale = 1 / scaling;
    options.attention_scale = number_or("attention_multiplier", 1);
    if (!(options.attention_scale > 0))
      reject_file(name_, "\"attention_multiplier\" is ", options.attention_scale,
                  ", expected a number above 0");
    if (options.attention_scale == usual_attention_scale(model_.config)) options.attention_scale = 0;
  }
  const Family* family_ = nullptr;
  HuggingFaceModel model_;
};

}  // namespace huggingface

// Reads DIRECTORY/config.json. Throws std::runtime_error for an invalid file, a family or a value that is not
// supported, and a key that is not known.
inline HuggingFaceModel read_huggingface_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  const nlohmann::json json = parse_json(path.string(), read_file(path, 1 << 20), 8);
  return huggingface::ConfigReader(path.string(), json).read();
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
