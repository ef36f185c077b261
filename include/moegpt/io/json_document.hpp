#pragma once
// Reading of small untrusted JSON documents: bounded depth, unique names, and members of the expected type.
#include <moegpt/io/file.hpp>
#include <moegpt/io/json.hpp>

#include <nlohmann/json.hpp>

#include <set>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The document of a text. `name` is the file's, for messages. Throws std::runtime_error for text that is not
// JSON, more than `depth` levels, or a name that occurs twice in an object. Memory: a multiple of the text's.
inline nlohmann::json parse_json(const std::string& name, std::string_view text, int depth = 8) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string>> names;  // of each open object or list
  const auto look = [&](int, Event event, nlohmann::json& value) {
    if (event == Event::object_start || event == Event::array_start) {
      if (std::ssize(names) == depth)
        reject_file(name, "is JSON of more than ", depth, " levels, expected at most ", depth);
      names.emplace_back();
    } else if (event == Event::object_end || event == Event::array_end) {
      names.pop_back();
    } else if (event == Event::key) {
      if (!names.back().insert(value.get<std::string>()).second)
        reject_file(name, "has the member ", shown(value.get<std::string>()), " twice in one object");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), look);
  } catch (const nlohmann::json::exception& error) {
    reject_file(name, "is not valid JSON: ", shown(error.what(), 200));
  }
}

// Members of an object of a document. Each throws std::runtime_error if the member is missing, of another
// type, or out of range.
class JsonObject {
 public:
  JsonObject(std::string name, const nlohmann::json& value) : name_(std::move(name)), value_(value) {
    if (!value.is_object()) reject_file(name_, "is ", value.type_name(), ", expected an object");
  }

  bool has(const char* member) const { return value_.contains(member); }
  const nlohmann::json& at(const char* member) const {
    const auto found = value_.find(member);
    if (found == value_.end()) reject_file(name_, "has no member \"", member, "\"");
    return *found;
  }
  std::string text(const char* member) const {
    const nlohmann::json& value = at(member);
    if (!value.is_string()) fail(member, value, "a text");
    return value.get<std::string>();
  }
  bool boolean(const char* member) const {
    const nlohmann::json& value = at(member);
    if (!value.is_boolean()) fail(member, value, "true or false");
    return value.get<bool>();
  }
  // A whole number in [least, most].
  Index integer(const char* member, Index least = 0, Index most = Index{1} << 53) const {
    return integer(member, at(member), least, most);
  }
  // A number; "nan", "inf" and "-inf" are read, too, because JSON has no literal of them.
  double number(const char* member) const { return number(member, at(member)); }
  const nlohmann::json& list(const char* member) const {
    const nlohmann::json& value = at(member);
    if (!value.is_array()) fail(member, value, "a list");
    return value;
  }
  std::vector<Index> integers(const char* member, Index least, Index most) const {
    return integers(member, list(member), least, most);
  }

  // The same of an element of a list; `member` is the list's name, for messages.
  Index integer(const char* member, const nlohmann::json& value, Index least, Index most) const {
    if (!value.is_number_integer()) fail(member, value, "a whole number");
    const bool large = value.is_number_unsigned() && value.get<std::uint64_t>() > PTRDIFF_MAX;
    const Index number = large ? most : value.get<Index>();
    if (large || number < least || number > most)
      reject_file(name_, "\"", member, "\" is ", shown(value.dump()), ", expected ", least, " .. ", most);
    return number;
  }
  double number(const char* member, const nlohmann::json& value) const {
    if (value.is_number()) return value.get<double>();
    if (value.is_string()) {
      const auto& text = value.get_ref<const std::string&>();
      if (text == "nan") return NAN;
      if (text == "inf") return INFINITY;
      if (text == "-inf") return -INFINITY;
    }
    fail(member, value, "a number");
  }
  std::vector<Index> integers(const char* member, const nlohmann::json& value, Index least,
                              Index most) const {
    if (!value.is_array()) fail(member, value, "a list");
    std::vector<Index> all;
    all.reserve(value.size());
    for (const nlohmann::json& element : value) all.push_back(integer(member, element, least, most));
    return all;
  }
  const std::string& name() const { return name_; }

 private:
  [[noreturn]] void fail(const char* member, const nlohmann::json& value, const char* expected) const {
    reject_file(name_, "\"", member, "\" is ", value.type_name(), ", expected ", expected);
  }
  std::string name_;
  const nlohmann::json& value_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
