// check_excerpts ROOT DOCUMENT... -- SOURCE...   (files or directories below ROOT)
// Each ```cpp block of the documents must be a sequence of lines of one of the sources; only the common
// indentation of the block and white space at line ends may differ.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace fs = std::filesystem;
using Lines = std::vector<std::string>;

static Lines read_lines(const fs::path& path) {
  std::ifstream in(path);
  Lines lines;
  for (std::string line; std::getline(in, line);) {
    line.erase(line.find_last_not_of(" \t\r") + 1);
    lines.push_back(line);
  }
  return lines;
}

static std::size_t indent_of(const std::string& line) {
  return std::min(line.find_first_not_of(' '), line.size());
}

// Without blank lines around it and without the indentation that all its lines share.
static Lines trimmed(Lines block) {
  while (!block.empty() && block.front().empty()) block.erase(block.begin());
  while (!block.empty() && block.back().empty()) block.pop_back();
  std::size_t shared = std::string::npos;
  for (const auto& line : block)
    if (!line.empty()) shared = std::min(shared, indent_of(line));
  for (auto& line : block)
    if (!line.empty()) line.erase(0, shared);
  return block;
}

static bool stands_at(const Lines& block, const Lines& source, std::size_t at) {
  const std::size_t indent = indent_of(source[at]) - std::min(indent_of(block[0]), indent_of(source[at]));
  for (std::size_t i = 0; i < block.size(); ++i) {
    const std::string& line = source[at + i];
    if (block[i].empty() ? !line.empty() : line != std::string(indent, ' ') + block[i]) return false;
  }
  return true;
}

static bool stands_in(const Lines& block, const Lines& source) {
  for (std::size_t at = 0; at + block.size() <= source.size(); ++at)
    if (stands_at(block, source, at)) return true;
  return false;
}

static std::vector<fs::path> files_below(const fs::path& path, const std::vector<std::string>& extensions) {
  std::vector<fs::path> files;
  if (fs::is_regular_file(path)) files.push_back(path);
  if (fs::is_directory(path))
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      const std::string extension = entry.path().extension().string();
      const bool planted = entry.path().parent_path().filename() == "planted";
      if (!planted && std::find(extensions.begin(), extensions.end(), extension) != extensions.end())
        files.push_back(entry.path());
    }
  std::sort(files.begin(), files.end());
  return files;
}

int main(int argc, char** argv) {
  const fs::path root = argv[1];
  std::vector<fs::path> documents;
  std::vector<Lines> sources;
  bool in_sources = false;
  for (int i = 2; i < argc; ++i) {
    if (std::string(argv[i]) == "--")
      in_sources = true;
    else if (in_sources)
      for (const auto& file : files_below(root / argv[i], {".hpp", ".cpp"}))
        sources.push_back(read_lines(file));
    else
      for (const auto& file : files_below(root / argv[i], {".md"})) documents.push_back(file);
  }

  int blocks = 0, faults = 0;
  for (const auto& document : documents) {
    const std::string name = fs::relative(document, root).string();
    const Lines lines = read_lines(document);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const std::string opening = lines[i].substr(indent_of(lines[i]));
      if (opening.rfind("```", 0) != 0) continue;
      const std::size_t opened_at = i + 1;
      Lines block;
      for (++i; i < lines.size() && lines[i].substr(indent_of(lines[i])) != "```"; ++i)
        block.push_back(lines[i]);
      if (i == lines.size()) {
        std::cout << name << ":" << opened_at << ": a block that is never closed\n";
        ++faults;
        continue;
      }
      const std::string language = opening.substr(3);
      if (language != "cpp" && language != "c++" && language != "C++") continue;
      ++blocks;
      block = trimmed(block);
      const bool found =
          !block.empty() && std::any_of(sources.begin(), sources.end(),
                                        [&](const Lines& source) { return stands_in(block, source); });
      if (found) continue;
      ++faults;
      std::cout << name << ":" << opened_at << ": this block is no verbatim excerpt of a source file:\n";
      for (const auto& line : block) std::cout << "    " << line << "\n";
    }
  }
  std::cout << documents.size() << " documents, " << blocks << " blocks, " << sources.size() << " sources, "
            << faults << " faults\n";
  return faults == 0 && !sources.empty() ? 0 : 1;
}
