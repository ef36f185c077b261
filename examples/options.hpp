#pragma once
// Command-line options of the examples, by CLI11: validators, error messages and exit status.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace options {

// Parses all of `text` as a decimal number. CLI11 alone would accept 0x10, 010 (as 8) and nan.
template <class Number>
bool read(const std::string& text, Number& number) {
  if (text.size() > 1 && text[0] == '0' && text[1] >= '0' && text[1] <= '9') return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size();
}

// A whole number from `least` to `most`.
inline CLI::Validator whole(std::uint64_t least, std::uint64_t most = 1000000000) {
  return {[=](std::string& text) -> std::string {
            std::uint64_t n = 0;
            if (read(text, n) && n >= least && n <= most) return {};
            return "is '" + text + "', expected a whole number from " + std::to_string(least) + " to " +
                   std::to_string(most);
          },
          ""};
}
inline CLI::Validator seed() { return whole(0, std::numeric_limits<std::uint64_t>::max()); }
inline CLI::Validator threads() { return whole(1, 1024); }

// A number from `least` to `most`, or above `least`.
enum class From { inclusive, exclusive };
inline CLI::Validator real(double least, double most = std::numeric_limits<double>::max(),
                           From from = From::inclusive) {
  return {[=](std::string& text) -> std::string {
            double x = 0;
            if (read(text, x) && (from == From::inclusive ? x >= least : x > least) && x <= most) return {};
            char range[64];
            std::snprintf(range, sizeof range,
                          most < std::numeric_limits<double>::max() ? "%s %g, at most %g" : "%s %g",
                          from == From::inclusive ? "of at least" : "above", least, most);
            return "is '" + text + "', expected a number " + range;
          },
          ""};
}

// A file's name: not empty, and not the next option, as in --save --steps 3.
inline CLI::Validator file_name() {
  return {[](std::string& text) -> std::string {
            if (text.empty()) return "is empty";
            if (text.rfind("--", 0) != 0) return {};
            return "is '" + text + "', expected a file; one of this name is ./" + text;
          },
          ""};
}

// One of some words. or_file: or else the name of a file that exists.
inline CLI::Validator one_of(std::vector<std::string> words, const char* or_file = nullptr) {
  return {[=](std::string& text) -> std::string {
            if (std::find(words.begin(), words.end(), text) != words.end()) return {};
            std::error_code none;
            if (or_file && std::filesystem::is_regular_file(text, none)) return {};
            std::string expected;
            for (const std::string& word : words) {
              if (!expected.empty()) expected += !or_file && &word == &words.back() ? " or " : ", ";
              expected += word;
            }
            if (or_file) (expected += " or ") += or_file;
            return "is '" + text + "', expected " + expected;
          },
          ""};
}

inline int default_threads() { return std::thread::hardware_concurrency() == 1 ? 1 : 2; }

// The most similar option to an unknown one: with it as prefix, or at Levenshtein distance at most two; or
// empty.
inline std::string nearest(const CLI::App& app, const std::string& wrong) {
  const auto distance = [](const std::string& a, const std::string& b) {  // Levenshtein
    std::vector<std::size_t> row(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i)
      for (std::size_t j = 1, corner = std::exchange(row[0], i); j <= b.size(); ++j) {
        const std::size_t change = corner + (a[i - 1] != b[j - 1]);
        corner = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, change}));
      }
    return row.back();
  };
  std::string found;
  std::size_t least = 3;
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = "--" + option->get_single_name();
    const std::size_t far = wrong.size() > 3 && name.rfind(wrong, 0) == 0 ? 1 : distance(wrong, name);
    if (far < least) least = far, found = name;
  }
  return found;
}

// Sentences for what CLI11 itself finds.
inline std::string explain_found(const CLI::App& app, const CLI::ParseError& error) {
  const std::string text = error.what();
  const auto parts = [&](const char* between) {  // of "A between B"
    const std::size_t at = text.find(between);
    return std::pair(text.substr(0, at), at == text.npos ? "" : text.substr(at + std::strlen(between)));
  };
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error)) {
    const std::string name = parts(":").first;
    const CLI::Option* option = app.get_option_no_throw(name);
    const int found = option ? static_cast<int>(option->results().size()) : 0;
    if (option && found > option->get_items_expected_max())
      return name + " is given more than once, expected once";
    if (!option || found == 0) return name + " has no value, expected one behind its name";
    return name + " has too few values, expected " + std::to_string(option->get_items_expected_min());
  }
  if (dynamic_cast<const CLI::RequiresError*>(&error)) {
    const auto [name, other] = parts(" requires ");
    return name + " is given without " + other + ": give both, or neither";
  }
  if (dynamic_cast<const CLI::ExcludesError*>(&error)) {
    const auto [name, other] = parts(" excludes ");
    return name + " and " + other + " are given, expected one of them";
  }
  if (dynamic_cast<const CLI::RequiredError*>(&error))
    return parts(" is required").first + " is missing, and is required";
  if (dynamic_cast<const CLI::ConfigError*>(&error))
    return "the file of --config has '" + text.substr(text.rfind(' ') + 1) +
           "', which is no option of this program";
  if (dynamic_cast<const CLI::FileError*>(&error))
    return "--config: the file '" + parts(" was not readable").first + "' cannot be read";
  if (dynamic_cast<const CLI::ConversionError*>(&error)) {
    const auto [name, value] = parts(" = ");
    return name.substr(name.rfind(' ') + 1) + " is '" + value + "', expected another kind of value";
  }
  return text;
}

inline std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = app.remaining();
  if (unknown.empty()) return explain_found(app, error);
  const std::string name = unknown[0].substr(0, unknown[0].find('=')), meant = nearest(app, name);
  if (name.rfind('-', 0) != 0) return "'" + unknown[0] + "' belongs to no option";
  return "no option is called " + name + (meant.empty() ? "" : ": is " + meant + " meant?");
}

// An error with an exit status of its own.
struct Failure : std::runtime_error {
  int status;
  Failure(int status_, const std::string& message) : std::runtime_error(message), status(status_) {}
};

// Parses the command line and runs the program. Returns the exit status: the program's, if it returns one; 2
// for an invalid command line, a Failure's, and 1 for another error, these with a message on stderr.
template <class F>
int run(CLI::App& app, int argc, char** argv, F&& program) {
  app.get_formatter()->column_width(28);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "%s: %s\n(%s --help lists the options)\n", app.get_name().c_str(),
                 explain(app, error).c_str(), app.get_name().c_str());
    return 2;
  }
  const auto failed = [&](int status, const char* why) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), why);
    return status;
  };
  try {
    int status = 0;
    if constexpr (std::is_void_v<decltype(program())>)
      program();
    else
      status = program();
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
    return failed(1, "the output could not be written");
  } catch (const Failure& error) {
    return failed(error.status, error.what());
  } catch (const std::exception& error) {
    return failed(1, error.what());
  }
}

}  // namespace options
