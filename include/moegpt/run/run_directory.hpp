#pragma once
// The directory of a training run.
//   run.json           manifest: that this is a run, and the options it was started with
//   lock               held by the process that trains
//   checkpoints/       run/checkpoint.hpp
//   metrics.jsonl      run/metrics.hpp
//   model.safetensors  the model at the end
//   routing.json       run/routing_record.hpp
// Events of TensorBoard (events.out.tfevents.*) and report.html may lie beside them.
#include <moegpt/run/checkpoint.hpp>

#include <sys/file.h>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct RunManifest {
  std::map<std::string, std::string> options;  // of the program that trains
  bool operator==(const RunManifest&) const = default;
};

namespace run_directory {

inline constexpr const char *manifest = "run.json", *lock = "lock", *checkpoints = "checkpoints";
inline constexpr std::array<std::string_view, 6> files{
    manifest, lock, "metrics.jsonl", "model.safetensors", "report.html", "routing.json"};

inline std::string manifest_text(const RunManifest& run) {
  const nlohmann::json json{{"moegpt_run", 1}, {"version", MOEGPT_VERSION}, {"options", run.options}};
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + '\n';
}
inline RunManifest read_manifest(const std::filesystem::path& path) {
  const nlohmann::json json = parse_json(path.string(), read_file(path, checkpoint::state_bytes));
  const JsonObject object(path.string(), json);
  object.integer("moegpt_run", 1, 1);
  const JsonObject options(path.string() + ": options", object.at("options"));
  RunManifest run;
  for (const auto& item : object.at("options").items())
    run.options[item.key()] = options.text(item.key().c_str());
  return run;
}

// Whether write_file_atomically may have left a file of this name behind: FILE.tmp-1234-0
inline bool is_left_over(std::string_view name) {
  for (const std::string_view known : files)
    if (name.starts_with(known) && name.substr(known.size()).starts_with(file::temporary_mark) &&
        name.find_first_not_of("0123456789-", known.size() + file::temporary_mark.size()) == name.npos)
      return true;
  return false;
}
// Whether a run writes a file of this name.
inline bool is_written(std::string_view name) {
  return std::find(files.begin(), files.end(), name) != files.end() ||
         name.starts_with("events.out.tfevents.") || is_left_over(name);
}

}  // namespace run_directory

// The directory of a run, locked for this process as long as the object lives.
class RunDirectory {
 public:
  // A new run in a directory that is made, or is empty. With `overwrite` it may hold another run, whose files
  // are removed; others stay. Throws std::invalid_argument for a directory that holds something else, and
  // without `overwrite`, for one that holds a run; std::runtime_error if another process trains there, or the
  // directory cannot be written.
  static RunDirectory create(const std::filesystem::path& path, const RunManifest& run,
                             bool overwrite = false) {
    check_may_create(path, overwrite);
    std::filesystem::create_directories(path);
    RunDirectory directory(path);
    check_may_create(path, overwrite);  // now that no other process can
    if (directory.holds_a_run()) directory.clear();
    directory.make_checkpoints();
    write_file_atomically(path / run_directory::manifest,
                          [&](FileWriter& out) { out.write(run_directory::manifest_text(run)); });
    file::flush_directory<SystemFiles>(path / "..");
    return directory;
  }

  // The run in a directory. Throws std::invalid_argument if there is none, std::runtime_error if another
  // process trains there or its manifest is damaged.
  static RunDirectory open(const std::filesystem::path& path) {
    check(std::filesystem::is_directory(path), "'", path.string(),
          "' is no directory, expected one of a run");
    check(std::filesystem::exists(path / run_directory::manifest), "'", path.string(),
          "' holds no run: there is no ", run_directory::manifest, " in it");
    RunDirectory directory(path);
    run_directory::read_manifest(path / run_directory::manifest);
    directory.make_checkpoints();
    directory.remove_left_overs();
    return directory;
  }

  // Throws what create would throw for these arguments because of what the directory holds. Writes nothing.
  static void check_may_create(const std::filesystem::path& path, bool overwrite = false) {
    std::error_code none;
    const auto status = std::filesystem::status(path, none);
    if (!std::filesystem::exists(status)) return;
    check(std::filesystem::is_directory(status), "'", path.string(),
          "' is a file, expected a directory for a run");
    if (std::filesystem::exists(path / run_directory::manifest)) {
      check(overwrite, "'", path.string(),
            "' holds a run: resume it, overwrite it, or choose another directory");
      run_directory::read_manifest(path / run_directory::manifest);
      return;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      const std::string name = entry.path().filename().string();
      check(name == run_directory::lock || name == run_directory::checkpoints ||
                run_directory::is_left_over(name),
            "'", path.string(), "' holds ", shown(name), " and no run, expected an empty directory");
    }
  }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / run_directory::checkpoints; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path events() const { return path_ / "events.out.tfevents.moegpt"; }
  std::filesystem::path model() const { return path_ / "model.safetensors"; }
  RunManifest manifest() const { return run_directory::read_manifest(path_ / run_directory::manifest); }

 private:
  explicit RunDirectory(const std::filesystem::path& path)
      : path_(path), lock_(std::make_unique<file::Descriptor>()) {
    const std::filesystem::path file = path / run_directory::lock;
    lock_->open(file, O_RDWR | O_CREAT | O_NOFOLLOW, 0666);
    if (!lock_->is_open()) file::fail("open", file);
    if (::flock(lock_->number(), LOCK_EX | LOCK_NB) == 0) return;
    if (errno != EWOULDBLOCK) file::fail("lock", file);
    reject_file(path.string(), "another process trains here: only one can at a time");
  }
  bool holds_a_run() const { return std::filesystem::exists(path_ / run_directory::manifest); }
  void make_checkpoints() {
    std::error_code exists;
    std::filesystem::create_directory(checkpoints(), exists);
    if (std::filesystem::symlink_status(checkpoints()).type() != std::filesystem::file_type::directory)
      reject_file(checkpoints().string(), "is not a directory, as that of a run is");
  }
  // Removes all that a run writes but the lock, and the manifest, which is replaced: so a process that ends
  // halfway leaves a run.
  void clear() {
    make_checkpoints();
    remove_left_overs();
    for (const auto& checkpoint : checkpoints_in(checkpoints()))
      if (!checkpoint::remove<SystemFiles>(checkpoint)) file::fail("remove", checkpoint);
    remove_files([](std::string_view name) {
      return run_directory::is_written(name) && name != run_directory::manifest &&
             name != run_directory::lock;
    });
  }
  void remove_left_overs() {
    remove_checkpoint_drafts(checkpoints());
    remove_files(run_directory::is_left_over);
  }
  template <class Choose>
  void remove_files(Choose&& choose) {
    std::vector<std::filesystem::path> chosen;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      if (choose(entry.path().filename().string())) chosen.push_back(entry.path());
    for (const auto& file : chosen)
      if (::unlink(file.c_str()) != 0) file::fail("remove", file);
  }

  std::filesystem::path path_;
  std::unique_ptr<file::Descriptor> lock_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
