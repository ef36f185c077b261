#include <moegpt/io/intermediates.hpp>

#include "support.hpp"

using namespace moegpt;

namespace {

// Two tokens, three experts, two choices, D = 2; token 1 chose one expert, which was full.
template <class T>
Intermediates<T> small() {
  Intermediates<T> all{{1, 2}, {5, 6}, {}};
  auto& layer = all.layers.emplace_back();
  layer.layer = 3, layer.experts = 3, layer.choices = 2, layer.dim = layer.expert_dim = 2, layer.tokens = 2;
  layer.gate_scores = {T(0.1), T(0.7), T(0.2), T(0.5), T(0.25), T(0.25)};
  layer.top_k_indices = {1, 2, 0, -1};
  layer.top_k_scores = {T(0.7), T(0.2), T(0.5), 0};
  layer.gates = {T(0.75), T(0.25), 0, 0};
  layer.dropped = {0, 0, 1, 0};
  layer.final_output = {1, -2, T(0.5), 3};
  layer.load = {0, 1, 1};
  layer.wanted = {1, 1, 1};
  layer.balance_loss = 1.25;
  layer.z_loss = 0.1;
  layer.count_loss = 7;
  layer.own_loss = 8;
  return all;
}

template <class Number>
std::vector<Number> numbers(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo& tensor = file.header.tensors.at(name);
  std::vector<Number> all(static_cast<std::size_t>(tensor.end - tensor.begin) / sizeof(Number));
  std::memcpy(all.data(), file.bytes(tensor).data(), all.size() * sizeof(Number));
  return all;
}

}  // namespace

TEST_CASE("intermediates become tensors under their names") {
  const TemporaryFolder folder;
  auto all = small<float>();
  save_safetensors(folder / "seen.safetensors", all);
  const SafetensorsFile file = read_safetensors(folder / "seen.safetensors");
  const auto& layer = all.layers[0];
  CHECK(file.header.metadata.at("batch") == "1");
  CHECK(file.header.metadata.at("length") == "2");
  CHECK(file.header.tensors.size() == 16);
  CHECK(numbers<int>(file, "ids") == all.ids);
  CHECK(numbers<float>(file, "layers.3.gate_scores") == layer.gate_scores);
  CHECK(numbers<int>(file, "layers.3.top_k_indices") == layer.top_k_indices);
  CHECK(numbers<float>(file, "layers.3.top_k_scores") == layer.top_k_scores);
  CHECK(numbers<float>(file, "layers.3.gates") == layer.gates);
  CHECK(numbers<std::uint8_t>(file, "layers.3.dropped") == layer.dropped);
  CHECK(numbers<float>(file, "layers.3.final_output") == layer.final_output);
  CHECK(numbers<std::int64_t>(file, "layers.3.load") == layer.load);
  CHECK(numbers<std::int64_t>(file, "layers.3.wanted") == layer.wanted);
  CHECK(numbers<double>(file, "layers.3.balance_loss") == std::vector<double>{1.25});
  CHECK(numbers<double>(file, "layers.3.z_loss") == std::vector<double>{0.1});
  CHECK(numbers<double>(file, "layers.3.count_loss") == std::vector<double>{7});
  CHECK(numbers<double>(file, "layers.3.own_loss") == std::vector<double>{8});
  CHECK(file.header.tensors.at("layers.3.gate_scores").shape == std::vector<Index>{2, 3});
  CHECK(file.header.tensors.at("layers.3.gates").shape == std::vector<Index>{2, 2});
  CHECK(file.header.tensors.at("layers.3.balance_loss").shape.empty());
  CHECK(file.header.tensors.at("layers.3.dropped").dtype == DType::boolean);
  CHECK(file.header.tensors.at("layers.3.top_k_indices").dtype == DType::i32);

  all.layers[0].expert_outputs.assign(8, 0.5f);
  save_safetensors(folder / "seen.safetensors", all);
  CHECK(read_safetensors(folder / "seen.safetensors").header.tensors.at("layers.3.expert_outputs").shape ==
        std::vector<Index>{2, 2, 2});
}

TEST_CASE("a model in double writes doubles") {
  const TemporaryFolder folder;
  save_safetensors(folder / "seen.safetensors", small<double>());
  const SafetensorsFile file = read_safetensors(folder / "seen.safetensors");
  CHECK(file.header.tensors.at("layers.3.gate_scores").dtype == DType::f64);
  CHECK(numbers<double>(file, "layers.3.gate_scores") == small<double>().layers[0].gate_scores);
}

TEST_CASE("intermediates become JSON in which every number is what it was") {
  const TemporaryFolder folder;
  auto all = small<float>();
  all.layers[0].expert_outputs = {1, 2, 3, 4, 5, 6, 7, 8};
  save_json(folder / "seen.json", all);
  const auto json = nlohmann::json::parse(get(folder / "seen.json"));
  CHECK(json["batch"] == 1);
  CHECK(json["length"] == 2);
  CHECK(json["ids"] == all.ids);
  REQUIRE(json["layers"].size() == 1);
  const auto& layer = json["layers"][0];
  CHECK(layer["layer"] == 3);
  for (std::size_t n = 0; n < 2; ++n)
    for (std::size_t e = 0; e < 3; ++e)
      CHECK(layer["gate_scores"][n][e].get<float>() == all.layers[0].gate_scores[n * 3 + e]);
  CHECK(layer["gate_scores"].size() == 2);
  CHECK(layer["gate_scores"][0].size() == 3);
  CHECK(layer["top_k_indices"].dump() == "[[1,2],[0,-1]]");
  CHECK(layer["dropped"].dump() == "[[0,0],[1,0]]");
  CHECK(layer["load"].dump() == "[0,1,1]");
  CHECK(layer["expert_outputs"][1][0][1] == 6);
  CHECK(layer["balance_loss"] == 1.25);
  CHECK(layer["z_loss"] == 0.1);
  CHECK(layer["count_loss"] == 7);
}

TEST_CASE("values that are not finite are null in JSON") {
  auto all = small<double>();
  all.layers[0].gate_scores[0] = std::numeric_limits<double>::infinity();
  all.layers[0].z_loss = std::numeric_limits<double>::quiet_NaN();
  const auto json = nlohmann::json::parse(to_json(all));
  CHECK(json["layers"][0]["gate_scores"][0][0].is_null());
  CHECK(json["layers"][0]["z_loss"].is_null());
}

TEST_CASE("two mixtures are two layers, and without ids there are none") {
  auto all = small<float>();
  all.ids.clear();
  all.layers.push_back(all.layers[0]);
  all.layers[1].layer = 4;
  const auto json = nlohmann::json::parse(to_json(all));
  CHECK_FALSE(json.contains("ids"));
  CHECK(json["layers"].size() == 2);
  CHECK(json["layers"][1]["layer"] == 4);
}
