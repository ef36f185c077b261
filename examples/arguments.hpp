#pragma once
// Command lines of the form --name value.
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

class Arguments {
 public:
  // `known`: every option with its value if it is not given; an empty one has none.
  Arguments(int argc, char** argv, std::map<std::string, std::string> known) : value_(std::move(known)) {
    for (int i = 1; i < argc; i += 2) {
      const std::string name = argv[i];
      if (value_.find(name) == value_.end()) {
        std::string all;
        for (const auto& [option, _] : value_) all += " " + option;
        throw std::invalid_argument("unknown option " + name + "; known are" + all);
      }
      if (i + 1 >= argc) throw std::invalid_argument("option " + name + " needs a value");
      value_[name] = argv[i + 1];
    }
  }
  bool has(const std::string& name) const { return !value_.at(name).empty(); }
  const std::string& text(const std::string& name) const { return value_.at(name); }
  double number(const std::string& name) const {
    const std::string& text = value_.at(name);
    char* end = nullptr;
    const double x = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0') throw std::invalid_argument(name + " is '" + text + "', expected a number");
    return x;
  }
  long count(const std::string& name, long least = 0) const {
    const std::string& text = value_.at(name);
    char* end = nullptr;
    const long n = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || n < least)
      throw std::invalid_argument(name + " is '" + text + "', expected a whole number of at least " +
                                  std::to_string(least));
    return n;
  }

 private:
  std::map<std::string, std::string> value_;
};
