#pragma once
// Intermediates as files for Python. For each MoE layer, with the index i of its layer,
//     layers.i.gate_scores [N, E]     layers.i.top_k_indices [N, K]    layers.i.top_k_scores [N, K]
//     layers.i.gates [N, K]           layers.i.dropped [N, K]          layers.i.final_output [N, D]
//     layers.i.load [E]               layers.i.wanted [E]
//     layers.i.expert_outputs [N, K, DE], on request
//     layers.i.balance_loss [], and z_loss, importance_loss, load_loss, variance_loss, count_loss, own_loss
// and ids [N], if present. They are defined in model/intermediates.hpp. N: tokens of the batch, sequence by
// sequence. The metadata has "batch" and "length".
//
// In safetensors these are tensors: reals of the model's type, ids and top_k_indices I32, dropped BOOL, load
// and wanted I64, losses F64. In JSON, where values that are not finite are null:
//     {"batch": ..., "length": ..., "ids": [...],
//      "layers": [{"layer": i, "gate_scores": [[...], ...], ...}, ...]}
#include <moegpt/io/json.hpp>
#include <moegpt/io/safetensors.hpp>
#include <moegpt/model/intermediates.hpp>

#include <charconv>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {

template <class Number>
constexpr DType dtype_of_array() {
  if constexpr (std::is_same_v<Number, int>)
    return DType::i32;
  else if constexpr (std::is_same_v<Number, std::int64_t>)
    return DType::i64;
  else if constexpr (std::is_same_v<Number, std::uint8_t>)
    return DType::boolean;
  else
    return dtype_of<Number>();
}

// The shortest text that is read as the same number.
template <class Number>
void append_number(std::string& text, Number x) {
  if constexpr (std::is_floating_point_v<Number>)
    if (!is_finite(x)) return void(text += "null");
  char digits[32];
  text.append(digits, std::to_chars(digits, digits + sizeof digits, x).ptr);
}
// numbers [shape] as nested lists.
template <class Number>
void append_array(std::string& text, const Number* numbers, std::span<const Index> shape) {
  Index inner = 1;
  for (const Index extent : shape.subspan(1)) inner *= extent;
  text += '[';
  for (Index i = 0; i < shape[0]; ++i) {
    if (i > 0) text += shape.size() > 1 ? ",\n" : ",";
    if (shape.size() > 1)
      append_array(text, numbers + i * inner, shape.subspan(1));
    else
      append_number(text, numbers[i]);
  }
  text += ']';
}

}  // namespace detail

// Writes a safetensors file; throws as save_safetensors does. Unlike weights, intermediates may be infinite
// or NaN.
template <class T>
void save_safetensors(const std::filesystem::path& path, const Intermediates<T>& all) {
  std::vector<NamedTensor> tensors;
  if (!all.ids.empty()) tensors.push_back({"ids", DType::i32, {std::ssize(all.ids)}, all.ids.data()});
  for (const auto& layer : all.layers) {
    const std::string prefix = "layers." + std::to_string(layer.layer) + ".";
    layer.for_each_array([&]<class Number>(const char* name, const std::vector<Number>& numbers,
                                           std::vector<Index> shape) {
      tensors.push_back({prefix + name, detail::dtype_of_array<Number>(), std::move(shape), numbers.data()});
    });
    layer.for_each_loss([&](const char* name, const double& loss) {
      tensors.push_back({prefix + name, DType::f64, {}, &loss});
    });
  }
  save_safetensors(
      path, std::move(tensors),
      {{"batch", std::to_string(all.shape.batch)}, {"length", std::to_string(all.shape.length)}});
}

// The same as JSON text.
template <class T>
std::string to_json(const Intermediates<T>& all) {
  std::string text;
  JsonText json(text, JsonText::Lines::each);
  json.member("batch", all.shape.batch).member("length", all.shape.length);
  const Index tokens = std::ssize(all.ids);
  if (tokens > 0)
    json.member("ids", [&] { detail::append_array(text, all.ids.data(), std::span(&tokens, 1)); });
  json.list("layers", all.layers, [&](const auto& layer) {
    return [&] {
      JsonText object(text, JsonText::Lines::each, 1);
      object.member("layer", layer.layer);
      layer.for_each_array([&](const char* name, const auto& numbers, std::vector<Index> shape) {
        object.member(name,
                      [&] { detail::append_array(text, numbers.data(), std::span<const Index>(shape)); });
      });
      layer.for_each_loss([&](const char* name, double loss) {
        object.member(name, [&] { detail::append_number(text, loss); });
      });
      object.end();
    };
  });
  json.end();
  return text += '\n';
}

// Writes a JSON file, in one step; throws std::runtime_error if it cannot be written.
template <class T>
void save_json(const std::filesystem::path& path, const Intermediates<T>& all) {
  const std::string text = to_json(all);
  write_file_atomically(path, [&](FileWriter& out) { out.write(text); });
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
