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

inline constexpr const char *manifest = "run.json", *lock = "lock", *checkpoints = "checkpoints",
                            *metrics = "metrics.jsonl", *model = "model.safetensors", *report = "report.html",
                            *routing = "routing.json", *events = "events.out.tfevents.moegpt";
inline constexpr std::array<std::string_view, 6> files{manifest, lock, metrics, model, report, routing};

inline std::string manifest_text(const RunManifest& run) {
  std::string text;
  JsonText json(text, JsonText::Lines::each);
  json.member("moegpt_run", 1).member("version", MOEGPT_VERSION).member("options", run.options).end();
  return text += '\n';
}
struct LaterVersion : std::runtime_error {
  using std::runtime_error::runtime_error;
};
inline RunManifest parse_manifest(const std::string& name, const std::string& text) {
  const nlohmann::json json = parse_json(name, text);
  const JsonObject object(name, json);
  if (object.integer("moegpt_run", 1) > 1)
    throw LaterVersion("moegpt: " + name + ": is of a later version of moegpt: use that version");
  const JsonObject options(name + ": options", object.at("options"));
  RunManifest run;
  for (const auto& item : object.at("options").items())
    run.options[item.key()] = options.text(item.key().c_str());
  return run;
}
inline RunManifest read_manifest(const std::filesystem::path& path) {
  return parse_manifest(path.string(), read_file(path, checkpoint::state_bytes));
}
// How a manifest is damaged, of which a half may be left, or nothing; empty: it is not. Throws
// std::runtime_error for one of a later version, or one that cannot be read.
inline std::string fault_of_manifest(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return "moegpt: " + path.string() + ": is missing";
  if (std::filesystem::file_size(path) == 0) return "moegpt: " + path.string() + ": is empty";
  const std::string text = read_file(path, checkpoint::state_bytes);
  try {
    parse_manifest(path.string(), text);
    return {};
  } catch (const LaterVersion&) {
    throw;
  } catch (const std::runtime_error& error) {
    return error.what();
  }
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

  // The run in a directory. A manifest that is damaged or missing is written anew, with the options of the
  // newest checkpoint without a fault; then repaired() says so. Throws std::invalid_argument if there is no
  // run, std::runtime_error if another process trains there, the manifest is one of a later version, or is
  // damaged and there is no such checkpoint.
  static RunDirectory open(const std::filesystem::path& path) {
    check(std::filesystem::is_directory(path), "'", path.string(),
          "' is no directory, expected one of a run");
    const std::filesystem::path manifest = path / run_directory::manifest;
    const bool exists = std::filesystem::exists(manifest);
    check(exists || !newest_checkpoint(path / run_directory::checkpoints).path.empty(), "'", path.string(),
          "' holds no run: there is no ", run_directory::manifest, " in it");
    RunDirectory directory(path);
    const std::string fault = run_directory::fault_of_manifest(manifest);
    directory.make_checkpoints();
    directory.remove_left_overs();
    if (!fault.empty()) directory.repair(fault);
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
      const std::string fault = run_directory::fault_of_manifest(path / run_directory::manifest);
      if (!fault.empty() && !is_surely_a_run(path))
        throw std::runtime_error(fault + ": '" + path.string() +
                                 "' may hold something else than a run, so it is not "
                                 "overwritten: choose another directory");
      return;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      const std::string name = entry.path().filename().string();
      check(name == run_directory::lock || name == run_directory::checkpoints ||
                run_directory::is_left_over(name),
            "'", path.string(), "' holds ", shown(name), " and no run, expected an empty directory");
    }
  }

  // What open() repaired; empty: nothing was damaged.
  const std::string& repaired() const { return repaired_; }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / run_directory::checkpoints; }
  std::filesystem::path metrics() const { return path_ / run_directory::metrics; }
  std::filesystem::path events() const { return path_ / run_directory::events; }
  std::filesystem::path model() const { return path_ / run_directory::model; }
  std::filesystem::path routing() const { return path_ / run_directory::routing; }
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
  // By what create() makes before the manifest.
  static bool is_surely_a_run(const std::filesystem::path& path) {
    return std::filesystem::exists(path / run_directory::lock) &&
           std::filesystem::is_directory(path / run_directory::checkpoints);
  }
  void repair(const std::string& fault) {
    const auto newest = newest_checkpoint(checkpoints());
    if (newest.path.empty())
      throw std::runtime_error(fault +
                               ": and no checkpoint has the options of the run, so it cannot go on. Begin it "
                               "anew in another directory, or in this one by overwriting");
    const RunManifest run{read_training_state(newest.path).options};
    write_file_atomically(path_ / run_directory::manifest,
                          [&](FileWriter& out) { out.write(run_directory::manifest_text(run)); });
    repaired_ = fault + ": written anew with the options of " + newest.path.string();
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
  std::string repaired_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
