#include <moegpt/io/huggingface_index.hpp>

#include "../support/catch.hpp"
#include "../support/refusal.hpp"

using namespace moegpt;

namespace {

std::string refused(const std::string& text) {
  return refusal<std::runtime_error>([&] { huggingface::parse_index("index", text); });
}

}  // namespace

TEST_CASE("an index has a file for each tensor, and each file once") {
  const auto index = huggingface::parse_index(
      "index", R"({"metadata": {"total_size": 3, "x": [1.5, -2, true, null, {"weight_map": 1}]},
                   "weight_map": {"a": "f", "b": "g", "c": "f"}})");
  CHECK(index.files == std::vector<std::string>{"f", "g"});
  CHECK((index.tensors.at("a") == 0 && index.tensors.at("b") == 1 && index.tensors.at("c") == 0));
}

TEST_CASE("an index that is not one is refused with what was found") {
  CHECK_THAT(refused(""), ContainsSubstring("is not valid JSON"));
  CHECK_THAT(refused("[]"), ContainsSubstring("is array, expected an object"));
  CHECK_THAT(refused("{}"), ContainsSubstring("has no member \"weight_map\""));
  CHECK_THAT(refused(R"({"x": {"weight_map": {"a": "f"}}})"), ContainsSubstring("has no member"));
  CHECK_THAT(refused(R"({"weight_map": "f"})"),
             ContainsSubstring("\"weight_map\" is text, expected an object"));
  CHECK_THAT(refused(R"({"weight_map": {"a": {"b": "f"}}})"),
             ContainsSubstring("the file of 'a' is object, expected the name of a file"));
  CHECK_THAT(refused(R"({"weight_map": {"a": ["f"]}})"), ContainsSubstring("the file of 'a' is array"));
  CHECK_THAT(refused(R"({"weight_map": {"a": "f", "a": "g"}})"),
             ContainsSubstring("has the tensor 'a' twice"));
  CHECK_THAT(refused(R"({"weight_map": {"a": "f"}, "weight_map": {}})"), ContainsSubstring("twice"));
  CHECK_THAT(refused(R"({"weight_map": {"a": "f"}, "x": [[[[1]]]]})"),
             ContainsSubstring("more than 4 levels"));
  CHECK_THAT(refused(R"({"weight_map": {"a": "f\u0000"}})"), ContainsSubstring("the file of 'a'"));
  CHECK_THAT(refused(std::string("{\0}", 3)), ContainsSubstring("zero byte"));
  for (const char* name : {"", ".", "..", "../f", "/f", "d/f", "d\\\\f"})
    CHECK_THAT(refused(std::string("{\"weight_map\": {\"a\": \"") + name + "\"}}"),
               ContainsSubstring("expected the name of a file beside the index"));
}

TEST_CASE("an index has limits") {
  const auto index_of = [](std::size_t tensors, std::size_t files) {
    std::string text = "{\"weight_map\": {";
    for (std::size_t i = 0; i < tensors; ++i)
      text.append(i > 0 ? ",\"" : "\"")
          .append(std::to_string(i))
          .append("\":\"")
          .append(std::to_string(i % files)) += '"';
    return text += "}}";
  };
  using Limits = huggingface::IndexLimits;
  CHECK(refused(index_of(Limits::tensors, Limits::files)) == "");
  CHECK_THAT(refused(index_of(Limits::tensors + 1, 1)), ContainsSubstring("names more than 200000 tensors"));
  CHECK_THAT(refused(index_of(Limits::files + 1, Limits::files + 1)),
             ContainsSubstring("names more than 4096 files"));
}
