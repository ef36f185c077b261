#pragma once
// The files that names on a command line stand for: files, directories and patterns.
#include <moegpt/io/file.hpp>

#include <algorithm>
#include <span>
#include <vector>

#include <glob.h>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {

// Regular files below a directory, in the order of the bytes of their paths, without those that are hidden or
// in a hidden directory. Links to directories are not followed.
inline std::vector<std::filesystem::path> files_below(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> files;
  std::filesystem::recursive_directory_iterator entry(directory), end;
  for (; entry != end; ++entry) {
    const bool hidden = entry->path().filename().string().front() == '.';
    if (hidden && entry->is_directory()) entry.disable_recursion_pending();
    if (!hidden && entry->is_regular_file()) files.push_back(entry->path());
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.native() < b.native(); });
  return files;
}

// What a pattern of the shell (*, ?, [...]) matches, in the order of the bytes of the paths.
inline std::vector<std::filesystem::path> matches_of(const std::string& pattern) {
  glob_t found{};
  const int result = ::glob(pattern.c_str(), GLOB_NOSORT | GLOB_ERR, nullptr, &found);
  const int reason = errno;
  std::vector<std::string> names(found.gl_pathv, found.gl_pathv + (result == 0 ? found.gl_pathc : 0));
  ::globfree(&found);
  if (result != 0 && result != GLOB_NOMATCH) file::fail("list", pattern, reason);
  std::sort(names.begin(), names.end());
  return {names.begin(), names.end()};
}

}  // namespace detail

// The files, in the order of the names. A name is a file; or a directory, which stands for the files below
// it; or else a pattern with *, ? or [...], which stands for what it matches, directories included. The files
// of a directory or pattern are in the order of the bytes of their paths, on every machine.
// Throws std::runtime_error for a name that stands for no file, for what is neither file nor directory, and
// for a file that occurs twice.
inline std::vector<std::filesystem::path> list_files(std::span<const std::string> names) {
  namespace fs = std::filesystem;
  std::vector<fs::path> files;
  const auto add = [&](const fs::path& path) {
    if (fs::is_directory(path)) {
      const auto below = detail::files_below(path);
      files.insert(files.end(), below.begin(), below.end());
    } else if (fs::is_regular_file(path)) {
      files.push_back(path);
    } else {
      reject_file("'" + path.string() + "'", "is neither a file nor a directory");
    }
  };
  for (const std::string& name : names) {
    const std::size_t before = files.size();
    if (fs::exists(name)) {
      add(name);
    } else {
      const auto matches = detail::matches_of(name);
      if (matches.empty()) file::fail("open", name, ENOENT);
      for (const fs::path& match : matches) add(match);
    }
    if (files.size() == before) reject_file("'" + name + "'", "holds no file that is not hidden");
  }
  std::vector<std::pair<fs::path, fs::path>> known;  // canonical, as named
  for (const fs::path& file : files) known.emplace_back(fs::canonical(file), file);
  std::sort(known.begin(), known.end());
  for (std::size_t i = 1; i < known.size(); ++i)
    if (known[i].first == known[i - 1].first)
      reject_file("'" + known[i].second.string() + "'", "occurs twice among the files, also as '",
                  known[i - 1].second.string(), "': name it once");
  return files;
}

inline std::vector<std::filesystem::path> list_files(std::initializer_list<std::string> names) {
  return list_files(std::span(names.begin(), names.size()));
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
