#pragma once
// A complete model in one safetensors file: weights by their paths, and in the metadata the format's version,
// the model type as C++ text, options and tokenizer. A program compiled for another type throws an error that
// names the type.
#include <moegpt/io/safetensors.hpp>
#include <moegpt/model/gpt.hpp>
#include <moegpt/text/tokenizer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The Config as C++ text, without fields that have their default.
inline std::string to_text(const Config& c) {
  static constexpr const char* residuals[] = {"pre_norm", "post_norm", "no_norm"};
  static constexpr const char* scalings[] = {"none", "linear", "ntk", "yarn", "llama3"};
  const Config plain{
      .vocab = c.vocab, .context = c.context, .dim = c.dim, .layers = c.layers, .heads = c.heads};
  std::string text = "Config{.vocab = " + std::to_string(c.vocab) +
                     ", .context = " + std::to_string(c.context) + ", .dim = " + std::to_string(c.dim) +
                     ", .layers = " + std::to_string(c.layers) + ", .heads = " + std::to_string(c.heads);
  auto number = [&](const char* name, int value, int usual) {
    if (value != usual) (((text += ", .") += name) += " = ") += std::to_string(value);
  };
  auto flag = [&](const char* name, bool value, bool usual) {
    if (value != usual) ((text += ", .") += name) += value ? " = true" : " = false";
  };
  auto layers = [&](const char* name, const LayerSet& set) {
    if (!set.given) return;
    ((text += ", .") += name) += " = {";
    for (int i = 0, listed = 0; i < c.layers; ++i)
      if (set.has(i)) (text += listed++ > 0 ? ", " : "") += std::to_string(i);
    text += '}';
  };
  number("kv_heads", c.kv_heads, plain.kv_heads);
  number("head_dim", c.head_dim, plain.head_dim);
  number("hidden", c.hidden, plain.hidden);
  number("dense_hidden", c.dense_hidden, plain.dense_hidden);
  if (c.mask != plain.mask) text += ", .mask = Mask::full";
  number("window", c.window, plain.window);
  layers("window_at", c.window_at);
  if (c.local != plain.local)
    text += c.local == Local::block ? ", .local = Local::block" : ", .local = Local::two_blocks";
  number("stride", c.stride, plain.stride);
  if (c.norm != plain.norm) text += ", .norm = Norm::rms";
  if (c.residual != plain.residual)
    (text += ", .residual = Residual::") += residuals[static_cast<int>(c.residual)];
  if (c.positions != plain.positions) text += ", .positions = Positions::rotary";
  if (c.query_key_norm != plain.query_key_norm)
    text += c.query_key_norm == QueryKeyNorm::head ? ", .query_key_norm = QueryKeyNorm::head"
                                                   : ", .query_key_norm = QueryKeyNorm::full";
  number("rotary_dim", c.rotary_dim, plain.rotary_dim);
  if (c.pairing != plain.pairing) text += ", .pairing = Pairing::adjacent";
  if (c.rotary_scaling != plain.rotary_scaling)
    (text += ", .rotary_scaling = RotaryScaling::") += scalings[static_cast<int>(c.rotary_scaling)];
  if (c.activation != plain.activation) (text += ", .activation = Activation::") += to_text(c.activation);
  flag("gated", c.gated, plain.gated);
  flag("attention_bias", c.attention_bias, plain.attention_bias);
  flag("output_bias", c.output_bias, plain.output_bias);
  flag("expert_bias", c.expert_bias, plain.expert_bias);
  flag("head_bias", c.head_bias, plain.head_bias);
  flag("tied", c.tied, plain.tied);
  number("adapter_rank", c.adapter_rank, plain.adapter_rank);
  number("dense_first", c.dense_first, plain.dense_first);
  number("moe_every", c.moe_every, plain.moe_every);
  layers("mixture_at", c.mixture_at);
  return text + "}";
}

// The whole model type, "GPT<Config{...}, TopKRouter<8, 2>>", or "Transformer<...>" of a trunk alone. The
// grammar of files for programs (io/type_grammar.hpp) does not have the others: "EncoderDecoder<Config{...},
// Dense, Config{...}, Dense>", and those with a type_name, such as Classifier, without their heads. A router
// without text() is called "your router".
template <class Model>
std::string to_text(const Config& config = Model::config) {
  if constexpr (requires {
                  typename Model::EncoderType;
                  typename Model::DecoderType;
                }) {
    std::string text = to_text<typename Model::EncoderType>();
    text.replace(0, text.find('<'), "EncoderDecoder");
    text.replace(text.rfind('>'), 1, ", ");
    const std::string decoder = to_text<typename Model::DecoderType>();
    return text.append(decoder, decoder.find('<') + 1);
  } else {
    std::string router;
    if constexpr (!Model::has_experts)
      router = "Dense";
    else
      router = router_text<typename Model::RouterRecipe>();
    std::string text = "Transformer";
    if constexpr (requires { Model::type_name; })
      text = Model::type_name;
    else if constexpr (requires(const Model& model) { model.head; })
      text = "GPT";
    ((((text += "<") += to_text(config)) += ", ") += router) += ">";
    return text;
  }
}

namespace detail {

// The parts of a model's type: "kind" and "router", and the fields of its Config.
inline std::map<std::string, std::string> parts_of_type(std::string_view text) {
  std::map<std::string, std::string> parts;
  const std::string_view start = "Config{";
  const std::size_t config = std::min(text.find(start), text.size());
  parts["kind"] = text.substr(0, text.find('<'));
  std::size_t at = std::min(config + start.size(), text.size()), from = at;
  const auto add_field = [&](std::string_view field) {  // .name = value
    const std::size_t equals = std::min(field.find(" = "), field.size());
    if (field.starts_with('.') && equals < field.size())
      parts[std::string(field.substr(0, equals))] = field.substr(equals + 3);
  };
  for (int depth = 0; at < text.size() && depth >= 0; ++at) {
    depth += (text[at] == '{') - (text[at] == '}');
    if (depth < 0 || (depth == 0 && text[at] == ',')) {
      add_field(text.substr(from, at - from));
      from = at + 2;
    }
  }
  if (at + 2 < text.size()) parts["router"] = text.substr(at + 2, text.size() - at - 3);
  return parts;
}

// ".dim is 8, expected 12; router is ..."
inline std::string type_difference(std::string_view found, std::string_view expected) {
  const auto a = parts_of_type(found), b = parts_of_type(expected);
  auto names = a;
  names.insert(b.begin(), b.end());
  const auto value = [](const auto& parts, const std::string& name) {
    const auto part = parts.find(name);
    return part == parts.end() ? "the default" : part->second;
  };
  std::string text;
  for (const auto& [name, unused] : names)
    if (value(a, name) != value(b, name))
      text += (text.empty() ? "" : "; ") + name + " is " + value(a, name) + ", expected " + value(b, name);
  return text;
}

inline const std::string& metadata_of(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.header.metadata.find(key);
  check(found != file.header.metadata.end(), file.name, " has no \"", key,
        "\" in its metadata: it was not written by moegpt. load_safetensors reads bare weights");
  return found->second;
}

}  // namespace detail

namespace detail {
// `extra` may state another type than the model's.
template <class Model>
PreparedSafetensors prepare_model_file(const std::string& path, const Model& model,
                                       const Tokenizer& tokenizer, Metadata extra,
                                       SafetensorsOptions options) {
  check(tokenizer.vocab() <= Model::config.vocab, "the tokenizer has ", tokenizer.vocab(),
        " tokens, the model only ", Model::config.vocab, ": a file with both could not be loaded");
  extra["moegpt.version"] = MOEGPT_VERSION;
  extra["moegpt.tokenizer"] = tokenizer.to_text();
  return prepare_safetensors(path, model, std::move(extra), options);
}
}  // namespace detail

// The file of a model with its options and its tokenizer; `extra` is added to the metadata. The model must
// outlive the result. Throws std::invalid_argument if the tokenizer has more tokens than the model,
// std::runtime_error for a weight that is not finite.
template <class Model>
PreparedSafetensors prepare_model_file(const std::string& path, const Model& model,
                                       const Tokenizer& tokenizer, Metadata extra = {}) {
  extra["moegpt.model"] = to_text<Model>();
  return detail::prepare_model_file(path, model, tokenizer, std::move(extra), {});
}

// Throws what save would throw for the size of the model and its tokenizer, such as more tensors than a file
// may have: before training, not after. The weights are not read, and nothing is written.
template <class Model>
void check_can_save(const std::string& path, const Model& model, const Tokenizer& tokenizer) {
  (void)detail::prepare_model_file(path, model, tokenizer, {{"moegpt.model", to_text<Model>()}},
                                   {.check_finite = false});
}

// Writes it atomically. Throws the same, and std::runtime_error if the file cannot be written.
template <class Model>
void save(const std::string& path, const Model& model, const Tokenizer& tokenizer, Metadata extra = {}) {
  const auto prepared = prepare_model_file(path, model, tokenizer, std::move(extra));
  write_file_atomically(path, [&](FileWriter& out) { prepared.write(out); });
}

// The type of the model in a file, as C++ text with current names.
inline std::string model_text(const SafetensorsFile& file, const FileFormat& format = {}) {
  const int version = safetensors::version_of(file.name, file.header.metadata, format);
  return safetensors::renamed(detail::metadata_of(file, "moegpt.model"), version, format.texts);
}
inline std::string model_text(const std::string& path, const FileFormat& format = {}) {
  return model_text(read_safetensors(path), format);
}

namespace detail {

// Throws std::invalid_argument unless the file holds a model of the type `expected`.
inline void check_type(const SafetensorsFile& file, const std::string& expected, const FileFormat& format) {
  const std::string found = model_text(file, format);
  check(found == expected, file.name, " holds a ", shown(found, 1000), ", this program is compiled for a '",
        expected, "': ", shown(type_difference(found, expected), 1000),
        ". Compile it for the type of the file, or use examples/for_model.sh");
}

// `text`: the type that the file states.
template <class Model>
void load_as(const std::string& text, const SafetensorsFile& file, Model& model, Tokenizer& tokenizer,
             SafetensorsOptions options) {
  check_type(file, text, options.format);
  Tokenizer read = Tokenizer::from_text(metadata_of(file, "moegpt.tokenizer"));
  check(read.vocab() <= Model::config.vocab, file.name, ": its tokenizer has ", read.vocab(),
        " tokens, its model ", Model::config.vocab);
  load_safetensors(file, model, options);
  tokenizer = std::move(read);
}

}  // namespace detail

// Reads a file of save() into the model and the tokenizer. Throws std::invalid_argument for a file of another
// model type, std::runtime_error for an invalid file; model and tokenizer are then unchanged.
template <class Model>
void load(const SafetensorsFile& file, Model& model, Tokenizer& tokenizer, const FileFormat& format = {}) {
  detail::load_as(to_text<Model>(), file, model, tokenizer, {.format = format});
}
template <class Model>
void load(const std::string& path, Model& model, Tokenizer& tokenizer, const FileFormat& format = {}) {
  load(read_safetensors(path), model, tokenizer, format);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
