#pragma once
// Which experts each token of a text was sent to, with their gates, as a file that programs can show:
//     {"step": 3000, "tokens": ["T","h", ...],
//      "layers": [{"layer": 0, "experts": 8, "expert": [[3,5], ...], "gate": [[0.61,0.39], ...]}, ...]}
// expert and gate are [tokens, K], in the order of choices; expert -1: none, or dropped.
#include <moegpt/model/intermediates.hpp>
#include <moegpt/io/json_document.hpp>
#include <moegpt/model/batch.hpp>
#include <moegpt/run/records.hpp>

#include <optional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct RoutingRecord {
  struct Layer {
    int layer = 0, experts = 0, choices = 0;  // index in the model, E, K
    std::vector<int> expert{};                // [N, K]
    std::vector<double> gate{};               // [N, K]
  };
  Index step = 0;
  std::vector<std::string> tokens{};  // [N] their texts
  std::vector<Layer> layers{};        // the MoE layers
};

// Runs the model on the tokens, in windows of the workspace's length that do not overlap, one at a time.
// noise: for routers that are noisy in evaluation, too. The workspace is one for training or inspection; its
// last forward is replaced. std::invalid_argument for an inference workspace or ids that the tokenizer lacks.
template <class Model>
RoutingRecord routing_record(const Model& model, const Tokenizer& tokenizer, TokenView tokens,
                             Workspace<Model>& work, Index step, std::optional<Key> noise = {}) {
  check_tapes(work);
  RoutingRecord record{.step = step};
  std::vector<int> ids(static_cast<std::size_t>(tokens.size()));
  tokens.copy(0, tokens.size(), ids.data());
  for (const int id : ids) record.tokens.push_back(as_utf8(tokenizer.decode(std::span(&id, 1))));
  Buffer<int> expert;
  for (std::size_t from = 0; from < ids.size();) {
    const std::size_t length = std::min(ids.size() - from, static_cast<std::size_t>(work.shape.length));
    const auto window = std::span(ids).subspan(from, length);
    Batch batch{{1, std::ssize(window)}, {window.begin(), window.end()}, {window.begin(), window.end()}};
    model.forward(batch, work, noise, Objective{});
    std::size_t i = 0;
    for_each_mixture(model, work, [&](int number, const auto&, const auto& tape) {
      const auto& plan = tape.plan;
      if (i == record.layers.size()) record.layers.push_back({number, plan.experts, plan.choices});
      RoutingRecord::Layer& layer = record.layers[i++];
      experts_of_pairs(plan, expert);
      layer.expert.insert(layer.expert.end(), expert.begin(), expert.end());
      for (Index pair = 0; pair < expert.size(); ++pair)
        layer.gate.push_back(expert[pair] == no_expert ? 0 : static_cast<double>(plan.gate[plan.slot[pair]]));
    });
    from += length;
  }
  return record;
}

inline std::string to_json(const RoutingRecord& record) {
  std::string text;
  JsonText json(text, JsonText::Lines::each);
  json.member("step", record.step).member("tokens", record.tokens);
  json.list("layers", record.layers, [&](const RoutingRecord::Layer& layer) {
    return [&] {
      const std::vector<float> gate(layer.gate.begin(), layer.gate.end());  // fewer digits
      const auto rows = [&](const auto& numbers) {
        std::vector<std::span<const std::decay_t<decltype(numbers[0])>>> all;
        const auto K = static_cast<std::size_t>(layer.choices);
        for (std::size_t n = 0; n < record.tokens.size(); ++n) all.emplace_back(numbers.data() + n * K, K);
        return all;
      };
      JsonText object(text, JsonText::Lines::each, 1);
      object.member("layer", layer.layer).member("experts", layer.experts);
      object.member("expert", rows(layer.expert)).member("gate", rows(gate)).end();
    };
  });
  json.end();
  return text += '\n';
}

// Writes the file, in one step; throws std::runtime_error if it cannot be written.
template <class Files = SystemFiles>
void save_json(const std::filesystem::path& path, const RoutingRecord& record) {
  const std::string text = to_json(record);
  write_file_atomically<Files>(path, [&](auto& out) { out.write(text); });
}

// Limits of what the reader accepts.
struct RoutingRecordLimits {
  static constexpr Index file_bytes = Index{1} << 28;
  static constexpr Index tokens = 1000000, layers = 1000, experts = 100000, choices = 1000;
};

// The record of a text. `name` is for messages. Throws std::runtime_error for anything else than what to_json
// writes: other sizes, experts that do not exist, gates that are not finite.
inline RoutingRecord parse_routing_record(const std::string& name, std::string_view text) {
  using Limits = RoutingRecordLimits;
  const nlohmann::json document = parse_json(name, text, 5);
  const JsonObject object(name, document);
  RoutingRecord record{.step = object.integer("step")};
  for (const nlohmann::json& token : object.list("tokens")) {
    if (!token.is_string()) reject_file(name, "has a token that is ", token.type_name(), ", expected a text");
    record.tokens.push_back(token.get<std::string>());
  }
  const std::size_t N = record.tokens.size();
  if (N > static_cast<std::size_t>(Limits::tokens))
    reject_file(name, "has ", N, " tokens, expected at most ", Limits::tokens);
  if (object.list("layers").size() > static_cast<std::size_t>(Limits::layers))
    reject_file(name, "has ", object.list("layers").size(), " layers, expected at most ", Limits::layers);
  for (const nlohmann::json& each : object.list("layers")) {
    const JsonObject of(name + ": layer " + std::to_string(record.layers.size()), each);
    RoutingRecord::Layer& layer = record.layers.emplace_back();
    layer.layer = static_cast<int>(of.integer("layer", 0, Limits::layers));
    layer.experts = static_cast<int>(of.integer("experts", 1, Limits::experts));
    const nlohmann::json &expert = of.list("expert"), &gate = of.list("gate");
    if (expert.size() != N || gate.size() != N)
      reject_file(of.name(), "has experts of ", expert.size(), " and gates of ", gate.size(),
                  " tokens, expected ", N);
    for (std::size_t n = 0; n < N; ++n) {
      const std::vector<Index> chosen = of.integers("expert", expert[n], no_expert, layer.experts - 1);
      if (n == 0) layer.choices = static_cast<int>(std::min<std::size_t>(chosen.size(), Limits::choices + 1));
      if (std::ssize(chosen) != layer.choices || layer.choices > Limits::choices || !gate[n].is_array() ||
          gate[n].size() != chosen.size())
        reject_file(of.name(), "token ", n, " has ", chosen.size(), " experts and ", gate[n].size(),
                    " gates, expected as many of both as token 0, and at most ", Limits::choices);
      for (std::size_t k = 0; k < chosen.size(); ++k) {
        layer.expert.push_back(static_cast<int>(chosen[k]));
        layer.gate.push_back(of.number("gate", gate[n][k]));
        if (!std::isfinite(layer.gate.back()))
          reject_file(of.name(), "token ", n, " has a gate that is not finite");
      }
    }
  }
  return record;
}
// Throws as parse_routing_record and read_file do.
inline RoutingRecord read_routing_record(const std::filesystem::path& path) {
  return parse_routing_record(path.string(), read_file(path, RoutingRecordLimits::file_bytes));
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
