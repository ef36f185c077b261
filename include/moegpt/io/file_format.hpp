#pragma once
// Version of the format of weight files, and conversion of older versions. A change of a path, a type's text
// or an option increments FileFormat::version and adds a line to a table here, so that every older file can
// be loaded. A type's text omits fields with default values. So defaults never change, and the default of a
// new field is the earlier behaviour.
#include <moegpt/io/safetensors_header.hpp>
#include <moegpt/layers/pass.hpp>

#include <charconv>
#include <cmath>
#include <span>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// A name in files older than `version`, and its new name: consecutive components of a weight's path
// ("attention.qkv"), or a part of a type's text ("TopKRouter"). Every occurrence as whole words is replaced,
// so it must be unambiguous.
struct Renamed {
  int version;
  std::string_view before, since;
};

// The value of an option in files of `version` or newer that do not contain it.
struct OptionDefault {
  int version;
  double ModelOptions::* option;
  double value;
};

// Each table is in the order of its versions.
inline constexpr std::array<Renamed, 0> renamed_paths{};
inline constexpr std::array<Renamed, 0> renamed_texts{};
inline constexpr std::array<OptionDefault, 15> option_defaults{{
    {1, &ModelOptions::norm_epsilon, 1e-5},
    {1, &ModelOptions::rotary_base, 10000},
    {1, &ModelOptions::attention_scale, 0},
    {1, &ModelOptions::capacity_factor, 0},
    {1, &ModelOptions::min_capacity, 0},
    {1, &ModelOptions::adapter_alpha, 0},
    {1, &ModelOptions::qkv_clip, 0},
    {1, &ModelOptions::embedding_scale, 1},
    {1, &ModelOptions::residual_scale, 1},
    {1, &ModelOptions::logit_scale, 1},
    {1, &ModelOptions::rotary_factor, 1},
    {1, &ModelOptions::rotary_context, 0},
    {1, &ModelOptions::rotary_fast, 32},
    {1, &ModelOptions::rotary_slow, 1},
    {1, &ModelOptions::rotary_magnitude, 0},
}};

// The version that a program writes, and the latest it reads, with its tables. Only tests use other tables.
struct FileFormat {
  int version = 2;  // 1: files that state none
  std::span<const Renamed> paths = renamed_paths, texts = renamed_texts;
  std::span<const OptionDefault> defaults = option_defaults;
};

namespace safetensors {

inline constexpr const char* version_key = "moegpt.format_version";
inline constexpr std::string_view options_prefix = "moegpt.options.";
inline constexpr std::array<std::pair<std::string_view, double ModelOptions::*>, 15> option_fields{{
    {"norm_epsilon", &ModelOptions::norm_epsilon},
    {"rotary_base", &ModelOptions::rotary_base},
    {"attention_scale", &ModelOptions::attention_scale},
    {"capacity_factor", &ModelOptions::capacity_factor},
    {"min_capacity", &ModelOptions::min_capacity},
    {"adapter_alpha", &ModelOptions::adapter_alpha},
    {"qkv_clip", &ModelOptions::qkv_clip},
    {"embedding_scale", &ModelOptions::embedding_scale},
    {"residual_scale", &ModelOptions::residual_scale},
    {"logit_scale", &ModelOptions::logit_scale},
    {"rotary_factor", &ModelOptions::rotary_factor},
    {"rotary_context", &ModelOptions::rotary_context},
    {"rotary_fast", &ModelOptions::rotary_fast},
    {"rotary_slow", &ModelOptions::rotary_slow},
    {"rotary_magnitude", &ModelOptions::rotary_magnitude},
}};
constexpr bool has_first_default(double ModelOptions::* option) {
  for (const OptionDefault& known : option_defaults)
    if (known.version == 1 && known.option == option) return true;
  return false;
}
static_assert(std::all_of(option_fields.begin(), option_fields.end(),
                          [](const auto& field) { return has_first_default(field.second); }),
              "option_defaults: every option needs a default from version 1 on, for files that lack it");

// Whether moegpt wrote the file: files written by Python have no such key.
inline bool is_ours(const Metadata& metadata) {
  const auto first = metadata.lower_bound("moegpt.");
  return first != metadata.end() && first->first.starts_with("moegpt.");
}

// The file's version; 1 if it has none. Throws if the text is not a version or newer than `format`.
inline int version_of(const std::string& file, const Metadata& metadata, const FileFormat& format) {
  const auto found = metadata.find(version_key);
  if (found == metadata.end()) return 1;
  const std::string& text = found->second;
  int version = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
  if (error != std::errc{} || end != text.data() + text.size() || version < 1 || text[0] == '0')
    reject_file(file, version_key, " is ", shown(text), ", expected a number from 1 to ", format.version,
                ": the file is damaged or was not written by moegpt");
  if (version > format.version) {
    const auto writer = metadata.find("moegpt.version");
    reject_file(file, "has format version ", version, ", expected 1 to ", format.version,
                ": compile this program with a newer moegpt",
                writer == metadata.end() ? "" : ". The file was written by version " + shown(writer->second));
  }
  return version;
}

// The current form of a name in a file of `version`.
inline std::string renamed(std::string name, int version, std::span<const Renamed> table) {
  const auto in_word = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  const auto between_words = [&](std::size_t at) {
    return at == 0 || at == name.size() || !in_word(name[at - 1]) || !in_word(name[at]);
  };
  for (const Renamed& r : table) {
    if (version >= r.version) continue;
    for (std::size_t at = 0; (at = name.find(r.before, at)) != name.npos;) {
      const bool whole = between_words(at) && between_words(at + r.before.size());
      if (whole) name.replace(at, r.before.size(), r.since);
      at += whole ? r.since.size() : 1;
    }
  }
  return name;
}

// The tensors of a file of `version`, under current paths.
inline TensorInfos renamed(const std::string& file, const TensorInfos& tensors, int version,
                           const FileFormat& format) {
  TensorInfos result;
  for (const auto& [name, tensor] : tensors) {
    const auto [place, is_new] = result.emplace(renamed(name, version, format.paths), tensor);
    if (!is_new)
      reject_file(file, "has two tensors for the weight ", shown(place->first),
                  ", expected one: remove the one that has a name of an older version");
  }
  return result;
}

inline std::string option_names() {
  std::string names;
  for (const auto& [name, member] : option_fields) (names += names.empty() ? "" : ", ") += name;
  return names;
}

// Sets the options in the file. Of a file that moegpt wrote, the others get the defaults of its version; of
// another file they are unchanged.
inline void read_options(const std::string& file, const Metadata& metadata, int version,
                         const FileFormat& format, ModelOptions& options) {
  if (!is_ours(metadata)) return;
  for (const OptionDefault& known : format.defaults)
    if (known.version <= version) options.*known.option = known.value;
  for (const auto& [key, text] : metadata) {
    if (!key.starts_with(options_prefix)) continue;
    const std::string_view name = std::string_view(key).substr(options_prefix.size());
    const auto field = std::find_if(option_fields.begin(), option_fields.end(),
                                    [&](const auto& known) { return known.first == name; });
    if (field == option_fields.end())
      reject_file(file, "has an option ", shown(name), ", expected one of ", option_names(),
                  ": compile this program with the moegpt that wrote the file, or a newer one");
    double& number = options.*field->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(number))
      reject_file(file, "option ", shown(name), " is ", shown(text), ", expected a number");
  }
}
inline void write_options(const ModelOptions& options, Metadata& metadata) {
  for (const auto& [name, member] : option_fields) {
    if (member == &ModelOptions::adapter_alpha && options.*member == 0) continue;  // so 0.1 reads the file
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, options.*member).ptr;
    metadata[std::string(options_prefix) + std::string(name)] = std::string(text, end);
  }
}

}  // namespace safetensors

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
