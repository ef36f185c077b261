#include <moegpt/model/gpt.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/run/routing_record.hpp>

#include "../io/support.hpp"

using namespace moegpt;

TEST_CASE("a routing record has the experts and gates of every token, window by window") {
  using Model = GPT<Config{.vocab = 8, .context = 4, .dim = 8, .layers = 3, .heads = 2, .dense_first = 1},
                    TopKRouter<4, 2>>;
  Model model;
  init(model, Key{3});
  Model::Workspace work{{2, 4}, Exec{1}, {}, Use::inspection};
  const Tokenizer tokenizer = Tokenizer::characters("abcdefg\n");
  const std::vector<int> ids{0, 1, 2, 3, 4, 5, 6};
  const RoutingRecord record = routing_record(model, tokenizer, ids, work, 12);
  CHECK(record.tokens == std::vector<std::string>{"\n", "a", "b", "c", "d", "e", "f"});
  REQUIRE(record.layers.size() == 2);
  CHECK(record.layers[0].layer == 1);
  CHECK(record.layers[1].experts == 4);

  const std::vector<int> second{4, 5, 6};  // the second window by itself
  const RoutingRecord alone = routing_record(model, tokenizer, second, work, 12);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto& layer = record.layers[i];
    REQUIRE(layer.expert.size() == 14);
    for (std::size_t n = 0; n < 7; ++n) {
      CHECK(layer.expert[2 * n] != layer.expert[2 * n + 1]);
      CHECK(layer.gate[2 * n] >= layer.gate[2 * n + 1]);
      CHECK(layer.gate[2 * n] + layer.gate[2 * n + 1] == Approx(1));
    }
    CHECK(std::vector<int>(layer.expert.begin() + 8, layer.expert.end()) == alone.layers[i].expert);
    CHECK(std::vector<double>(layer.gate.begin() + 8, layer.gate.end()) == alone.layers[i].gate);
  }

  TemporaryFolder folder;
  save_json(folder / "routing.json", record);
  const RoutingRecord read = read_routing_record(folder / "routing.json");
  CHECK(read.step == 12);
  CHECK(read.tokens == record.tokens);
  REQUIRE(read.layers.size() == 2);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(read.layers[i].layer == record.layers[i].layer);
    CHECK(read.layers[i].choices == 2);
    CHECK(read.layers[i].expert == record.layers[i].expert);
    for (std::size_t k = 0; k < 14; ++k) CHECK(read.layers[i].gate[k] == Approx(record.layers[i].gate[k]));
  }
  Model::Workspace inference{{2, 4}, Exec{1}, {}, Use::inference};
  CHECK(has(error_of([&] { routing_record(model, tokenizer, ids, inference, 1); }), "inference workspace"));
}

TEST_CASE("a routing record of other sizes, experts or numbers is refused") {
  const std::string good =
      R"({"step": 3, "tokens": ["a", "b"], "layers": [{"layer": 1, "experts": 4, "expert": [[3, -1], )"
      R"([0, 1]], "gate": [[0.5, 0], [1, 0.25]]}]})";
  CHECK(parse_routing_record("file", good).layers.at(0).expert == std::vector<int>{3, -1, 0, 1});
  const auto error = [&](std::string_view from, std::string_view to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return error_of([&] { parse_routing_record("file", text); });
  };
  CHECK(has(error("[3, -1]", "[4, -1]"), "file: layer 0: \"expert\" is '4', expected -1 .. 3"));
  CHECK(has(error("[3, -1]", "[-2, 0]"), "'-2', expected -1 .. 3"));
  CHECK(has(error("[3, -1]", "[3]"), "token 0 has 1 experts and 2 gates"));
  CHECK(has(error("[0, 1]", "[0, 1, 2]"), "token 1 has 3 experts and 2 gates"));
  CHECK(has(error("[1, 0.25]", "[1, \"inf\"]"), "token 1 has a gate that is not finite"));
  CHECK(has(error("[1, 0.25]", "[1, null]"), "expected a number"));
  CHECK(has(error("[1, 0.25]", "2"), "gates, expected as many"));
  CHECK(has(error("\"b\"", "7"), "has a token that is number"));
  CHECK(has(error("[\"a\", \"b\"]", "[\"a\"]"), "experts of 2 and gates of 2 tokens, expected 1"));
  CHECK(has(error("\"experts\": 4", "\"experts\": 0"), "\"experts\" is '0', expected 1 .. 100000"));
  CHECK(has(error("\"experts\": 4", "\"experts\": 1e9"), "expected a whole number"));
  CHECK(has(error("[3, -1]", "[[3], -1]"), "more than 5 levels"));
  CHECK(has(error("\"layers\"", "\"other\""), "has no member \"layers\""));
}
