#pragma once
#include "../support/catch.hpp"
#include "../support/refusal.hpp"
#include "../support/temporary_folder.hpp"

#include <moegpt/text/token_view.hpp>

#include <fstream>
#include <iterator>

inline void write_bytes(const std::filesystem::path& path, std::string_view bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  REQUIRE(out.good());
}
inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::vector<int> ids_of(moegpt::TokenView tokens) {
  std::vector<int> ids(static_cast<std::size_t>(tokens.size()));
  tokens.copy(0, tokens.size(), ids.data());
  return ids;
}
