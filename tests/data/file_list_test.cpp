#include <moegpt/data/file_list.hpp>

#include "support.hpp"

#include <sys/stat.h>

using namespace moegpt;

namespace {

struct Tree : TemporaryFolder {
  Tree() {
    for (const char* name : {"b.txt", "a.txt", "B.txt", "sub/c.txt", "sub/deep/a.md", "sub/.hidden", ".git/x",
                             "[1].txt", "z/1.bin", "z/10.bin", "z/2.bin"})
      write_bytes(*this / name, "text");
  }
  // Paths below the folder.
  std::vector<std::string> list(std::vector<std::string> names) const {
    for (std::string& name : names) name = (path / name).string();
    std::vector<std::string> found;
    for (const auto& file : list_files(names)) found.push_back(file.lexically_relative(path).string());
    return found;
  }
  std::string refuses(std::vector<std::string> names) const {
    return refusal<std::runtime_error>([&] { list(std::move(names)); });
  }
};

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("files are in the order of their names, those of a directory or a pattern in the order of bytes") {
  const Tree tree;
  CHECK(tree.list({"b.txt", "a.txt"}) == Names{"b.txt", "a.txt"});
  CHECK(tree.list({"sub"}) == Names{"sub/c.txt", "sub/deep/a.md"});
  CHECK(tree.list({"z/*.bin"}) == Names{"z/1.bin", "z/10.bin", "z/2.bin"});
  CHECK(tree.list({"?.txt"}) == Names{"B.txt", "a.txt", "b.txt"});
  CHECK(tree.list({"b.txt", "s*", "a.txt"}) == Names{"b.txt", "sub/c.txt", "sub/deep/a.md", "a.txt"});
  CHECK(tree.list({"[ab].txt"}) == Names{"a.txt", "b.txt"});
  CHECK(tree.list({}).empty());
  CHECK(list_files({(tree.path / "a.txt").string(), (tree.path / "b.txt").string()}).size() == 2);
}

TEST_CASE("a file whose name is a pattern is itself") {
  const Tree tree;
  CHECK(tree.list({"[1].txt"}) == Names{"[1].txt"});
}

TEST_CASE("hidden files of a directory are left out, named ones are not") {
  const Tree tree;
  CHECK(tree.list({""}).size() == 9);
  CHECK(tree.list({"sub/.hidden"}) == Names{"sub/.hidden"});
}

TEST_CASE("a name that stands for no file, a file named twice and a device are refused by name") {
  const Tree tree;
  CHECK(contains(tree.refuses({"missing.txt"}), "missing.txt: No such file"));
  CHECK(contains(tree.refuses({"*.none"}), "*.none: No such file"));
  std::filesystem::create_directory(tree / "empty");
  CHECK(contains(tree.refuses({"empty"}), "empty': holds no file"));
  CHECK(contains(tree.refuses({"a.txt", "b.txt", "a.txt"}), "a.txt': occurs twice"));
  CHECK(contains(tree.refuses({"sub", "sub/deep/../c.txt"}), "occurs twice"));
  REQUIRE(::mkfifo((tree / "pipe").c_str(), 0600) == 0);
  CHECK(contains(tree.refuses({"pipe"}), "pipe': is neither a file nor a directory"));
  CHECK(tree.list({""}).size() == 9);  // and no file of the directory
}
