#pragma once
// Reading the keys of a config.json: each is of the expected type, and those that were not asked for are an
// error unless they are known to have no meaning here.
#include <moegpt/io/json_document.hpp>
#include <moegpt/kernels/activations.hpp>

#include <set>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace huggingface {

// Keys that say nothing about what the weights compute, or only about training and generation.
inline constexpr const char* ignored_keys[] = {"_name_or_path",
                                               "architectures",
                                               "attention_dropout",
                                               "attn_pdrop",
                                               "auto_map",
                                               "bos_token_id",
                                               "chunk_size_feed_forward",
                                               "dtype",
                                               "embd_pdrop",
                                               "eos_token_id",
                                               "gradient_checkpointing",
                                               "id2label",
                                               "initializer_range",
                                               "is_encoder_decoder",
                                               "keys_to_ignore_at_inference",
                                               "label2id",
                                               "max_window_layers",
                                               "n_ctx",
                                               "output_attentions",
                                               "output_hidden_states",
                                               "output_router_logits",
                                               "pad_token_id",
                                               "pretraining_tp",
                                               "problem_type",
                                               "resid_pdrop",
                                               "return_dict",
                                               "router_jitter_noise",
                                               "sep_token_id",
                                               "summary_activation",
                                               "summary_first_dropout",
                                               "summary_proj_to_labels",
                                               "summary_type",
                                               "summary_use_proj",
                                               "task_specific_params",
                                               "torch_dtype",
                                               "transformers_version",
                                               "unk_token_id",
                                               "use_cache"};

class ConfigKeys {
 public:
  // json must outlive this object.
  ConfigKeys(const std::string& name, const nlohmann::json& json)
      : name_(name), fields_(name, json), json_(json) {}

 protected:
  bool has(const char* key) {
    used_.insert(key);
    return fields_.has(key) && !json_[key].is_null();
  }
  int integer(const char* key, Index least, Index most) {
    used_.insert(key);
    return static_cast<int>(fields_.integer(key, least, most));
  }
  int integer_or(const char* key, int usual, Index least, Index most) {
    return has(key) ? integer(key, least, most) : usual;
  }
  double number_or(const char* key, double usual) { return has(key) ? fields_.number(key) : usual; }
  bool flag_or(const char* key, bool usual) { return has(key) ? fields_.boolean(key) : usual; }
  // The key, if it is there, must have one of these values.
  template <class Value>
  void expect(const char* key, std::initializer_list<Value> values) {
    if (!has(key)) return;
    std::string expected;
    for (const Value& value : values) {
      if (json_[key] == value) return;
      (expected += expected.empty() ? "" : " or ") += nlohmann::json(value).dump();
    }
    reject_file(name_, "\"", key, "\" is ", shown(json_[key].dump()), ", which is not supported; expected ",
                expected);
  }
  Activation activation_of(const char* key, const char* usual) {
    const std::string name = has(key) ? fields_.text(key) : usual;
    if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::gelu;
    if (name == "gelu") return Activation::gelu_erf;
    if (name == "silu" || name == "swish") return Activation::silu;
    if (name == "relu") return Activation::relu;
    reject_file(name_, "\"", key, "\" is ", shown(name), ", expected gelu_new, gelu, silu or relu");
  }
  void check_divides(const char* key, int number, const char* by, int divisor) {
    if (number % divisor != 0)
      reject_file(name_, "\"", key, "\" is ", number, ", expected a multiple of \"", by, "\", ", divisor);
  }
  // Throws unless each key was asked for or is ignored.
  void check_all_known(const std::string& family) {
    for (const char* key : ignored_keys) used_.insert(key);
    for (const auto& [key, value] : json_.items())
      if (!used_.contains(key))
        reject_file(name_, "the key ", shown(key), " (", shown(value.dump()), ") is not known for ", family,
                    ": it may change what the model computes. Remove it if it does not");
  }

  std::string name_;
  JsonObject fields_;
  const nlohmann::json& json_;
  std::set<std::string> used_;
};

}  // namespace huggingface

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
