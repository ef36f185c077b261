#pragma once
// What an error says.
#include <stdexcept>
#include <string>
#include <string_view>

// The message of the Error that f throws; empty if it throws none.
template <class Error = std::invalid_argument, class F>
std::string refusal(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

inline bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}
