#pragma once
// For tests of files: what an error says, and safetensors bytes written by hand.
#include "../support/catch.hpp"
#include "../support/temporary_folder.hpp"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

inline void put(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}
inline std::string get(const std::filesystem::path& path) {
  std::ostringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  return bytes.str();
}

// What the exception says; empty if there was none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}
inline bool has(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

// A number of the file format: 8 bytes, the lowest first.
inline std::string eight_bytes(std::uint64_t number) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(number >> (8 * i) & 0xff);
  return bytes;
}

inline std::string safetensors_bytes(const std::string& header, const std::string& data = {}) {
  return eight_bytes(header.size()) + header + data;
}
