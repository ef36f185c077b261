#pragma once
// Command lines of the programs, by CLI11: what a number may be, and what becomes of an error.
#include <CLI/CLI.hpp>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <thread>

namespace options {

// Reads all of `text` as a decimal number. CLI11 alone would take 0x10, 010 for 8, and nan.
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
inline CLI::Validator real(double least, double most = std::numeric_limits<double>::max(), From from = From::inclusive) {
  return {[=](std::string& text) -> std::string {
            double x = 0;
            if (read(text, x) && (from == From::inclusive ? x >= least : x > least) && x <= most) return {};
            char range[64];
            std::snprintf(range, sizeof range, most < std::numeric_limits<double>::max() ? "%s %g, at most %g" : "%s %g",
                          from == From::inclusive ? "of at least" : "above", least, most);
            return "is '" + text + "', expected a number " + range;
          },
          ""};
}

// Any text but none.
inline CLI::Validator given() {
  return {[](std::string& text) { return text.empty() ? std::string("is empty") : std::string(); }, ""};
}

inline int default_threads() { return std::thread::hardware_concurrency() == 1 ? 1 : 2; }

// Parses the command line and runs the program. Returns its exit status: 2 for a command line that is wrong, 1 for
// another error, either with a sentence on stderr.
template <class F>
int run(CLI::App& app, int argc, char** argv, F&& program) {
  app.get_formatter()->column_width(28);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "%s: %s\n(%s --help lists the options)\n", app.get_name().c_str(), error.what(),
                 app.get_name().c_str());
    return 2;
  }
  try {
    program();
    return 0;
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), error.what());
    return 1;
  }
}

}  // namespace options
