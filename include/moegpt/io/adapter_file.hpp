#pragma once
// Files of adapters alone, and of the model that they adapt alone. The first have only the tensors of
// adapters and state the type of the adapted model. The second are model files of the type without adapters.
#include <moegpt/io/model_file.hpp>
#include <moegpt/model/adapters.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The type of a model without its adapters, as C++ text.
template <class Model>
std::string base_text() {
  Config config = Model::config;
  config.adapter_rank = 0;
  return to_text<Model>(config);
}

// Writes the adapters atomically. Throws std::invalid_argument if the model has none,
// std::runtime_error for a weight that is not finite, or if the file cannot be written.
template <class Model>
void save_adapters(const std::string& path, const Model& model, Metadata extra = {}) {
  extra["moegpt.version"] = MOEGPT_VERSION;
  extra["moegpt.model"] = to_text<Model>();
  save_safetensors(path, model, std::move(extra), {.only = is_adapter});
}

// Sets the adapters to those of a file of save_adapters, or of a whole model of this type, and the options to
// those of the file. Throws std::invalid_argument for the adapters of another type of model,
// std::runtime_error for an invalid file; the model is then unchanged.
template <class Model>
void load_adapters(const std::string& path, Model& model, const FileFormat& format = {}) {
  const SafetensorsFile file = read_safetensors(path);
  detail::check_type(file, to_text<Model>(), format);
  load_safetensors(file, model, {.format = format, .only = is_adapter});
}

// Writes a model file of the type without adapters. After merge_adapters, it has the merged weights. Throws
// what save throws.
template <class Model>
void save_base(const std::string& path, const Model& model, const Tokenizer& tokenizer, Metadata extra = {}) {
  extra["moegpt.model"] = base_text<Model>();
  const auto prepared =
      detail::prepare_model_file(path, model, tokenizer, std::move(extra), {.only = is_no_adapter});
  write_file_atomically(path, [&](FileWriter& out) { prepared.write(out); });
}

// Reads a file of save() of the model without adapters; adapters and adapter_alpha are unchanged. Throws what
// load throws; model and tokenizer are then unchanged.
template <class Model>
void load_base(const std::string& path, Model& model, Tokenizer& tokenizer, const FileFormat& format = {}) {
  const double alpha = model.options.adapter_alpha;
  detail::load_as(base_text<Model>(), read_safetensors(path), model, tokenizer,
                  {.format = format, .only = is_no_adapter});
  model.options.adapter_alpha = alpha;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
