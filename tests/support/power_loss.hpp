#pragma once
// What a disk may hold after the power is lost: the operations recorded by FaultyFiles are replayed on a
// model of a file system, in which a file keeps what was written before its last fsync, a directory the names
// it had at its last fsync, and each later change may or may not have reached the disk.
#include "faulty_files.hpp"

#include <moegpt/core/random.hpp>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>

class Disk {
 public:
  // What of the changes after the last fsync has reached the disk.
  enum class Kept { nothing, everything, some };

  explicit Disk(std::string root) : root_(std::move(root)) {
    nodes_[root_] = std::make_shared<Node>(Node{true});
  }

  // fsync: whether fsync does anything.
  void replay(const FileOperation& o, bool fsync = true) {
    using K = FileOperation;
    if (o.kind == K::mkdir) create(o.path, true);
    if (o.kind == K::open) {
      if (!nodes_.contains(o.path)) create(o.path, false);
      open_[o.number] = nodes_.at(o.path);
    }
    if (o.kind == K::close) open_.erase(o.number);
    if (o.kind == K::write) open_.at(o.number)->now += o.text;
    if (o.kind == K::fsync && fsync) {
      Node& node = *open_.at(o.number);
      node.safe = node.now, node.safe_names = node.names;
    }
    if (o.kind == K::unlink || o.kind == K::rmdir) remove(o.path);
    if (o.kind == K::rename) {
      std::map<std::string, std::shared_ptr<Node>> moved;
      for (const auto& [path, node] : nodes_)
        if (path == o.path || path.starts_with(o.path + "/"))
          moved[o.text + path.substr(o.path.size())] = node;
      remove(o.path);
      for (const auto& [path, node] : moved) nodes_[path] = node;
      parent(o.text).names[name(o.text)] = moved.at(o.text);
    }
  }

  // Writes into an empty folder what the disk holds.
  void write_to(const std::filesystem::path& folder, Kept names, Kept bytes, std::uint64_t seed) const {
    moegpt::Rng rng(seed);
    write(*nodes_.at(root_), folder, names, bytes, rng);
  }

 private:
  struct Node {
    bool is_directory = false;
    std::string now{}, safe{};
    std::map<std::string, std::shared_ptr<Node>> names{}, safe_names{};
  };
  static std::string name(const std::string& path) { return std::filesystem::path(path).filename(); }
  Node& parent(const std::string& path) { return *nodes_.at(std::filesystem::path(path).parent_path()); }
  void create(const std::string& path, bool is_directory) {
    nodes_[path] = std::make_shared<Node>(Node{is_directory});
    parent(path).names[name(path)] = nodes_[path];
  }
  void remove(const std::string& path) {
    parent(path).names.erase(name(path));
    std::erase_if(nodes_, [&](const auto& n) { return n.first == path || n.first.starts_with(path + "/"); });
  }
  static bool keeps(Kept kept, moegpt::Rng& rng) {
    return kept == Kept::everything || (kept == Kept::some && rng.below(2) == 1);
  }
  static void write(const Node& node, const std::filesystem::path& path, Kept names, Kept bytes,
                    moegpt::Rng& rng) {
    if (!node.is_directory) {
      const std::string& text = keeps(bytes, rng) ? node.now : node.safe;
      std::ofstream(path, std::ios::binary) << text;
      return;
    }
    std::filesystem::create_directories(path);
    auto now = node.safe_names;
    for (const auto& [name, child] : node.safe_names)  // removed or replaced
      if (!node.names.contains(name) && keeps(names, rng)) now.erase(name);
    for (const auto& [name, child] : node.names)
      if (keeps(names, rng)) now[name] = child;
    for (const auto& [name, child] : now) write(*child, path / name, names, bytes, rng);
  }

  std::string root_;
  std::map<std::string, std::shared_ptr<Node>> nodes_;  // by path
  std::map<int, std::shared_ptr<Node>> open_;
};
