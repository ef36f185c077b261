#pragma once
// Checkpoints: directories that hold all that a training run needs to continue with the same bits.
//   step_00001200/model.safetensors      a model file (io/model_file.hpp)
//   step_00001200/optimizer.safetensors  moments under the paths of their weights, and step counts
//   step_00001200/state.json             TrainingState
//   step_00001200/manifest.txt           size and CRC-32C of each of the others
//
// A checkpoint appears under its name when all of it is on the disk. Equal states give equal bytes.
#include <moegpt/io/crc32c.hpp>
#include <moegpt/io/model_file.hpp>
#include <moegpt/run/training_state.hpp>

#include <charconv>
#include <optional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace checkpoint {

inline constexpr std::string_view title = "moegpt checkpoint 1\n", name_start = "step_",
                                  manifest = "manifest.txt", steps_key = "moegpt.steps";
inline constexpr Index manifest_bytes = 4096;  // at most
inline constexpr std::array<std::string_view, 3> files{"model.safetensors", "optimizer.safetensors",
                                                       "state.json"};

// step_00001200: at least eight digits, so that names sort as steps do.
inline std::string name_of(Index step) {
  const std::string digits = std::to_string(step);
  return std::string(name_start) + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits;
}
// The step of a name; none if it is no checkpoint's.
inline std::optional<Index> step_of_name(const std::string& name) {
  Index step = 0;
  if (!name.starts_with(name_start)) return {};
  const char* end = name.data() + name.size();
  const auto read = std::from_chars(name.data() + name_start.size(), end, step);
  if (read.ec != std::errc{} || read.ptr != end || name != name_of(step)) return {};
  return step;
}

inline std::string manifest_line(std::string_view name, std::uint64_t bytes, std::uint32_t crc) {
  char line[96];
  std::snprintf(line, sizeof line, "%s %llu %08x\n", std::string(name).c_str(),
                static_cast<unsigned long long>(bytes), static_cast<unsigned>(crc));
  return line;
}

// That of a file, which is read in pieces. Throws what FileReader throws.
inline std::string manifest_line_of(const std::filesystem::path& folder, std::string_view name) {
  const FileReader in(folder / name);
  Crc32c crc;
  std::string piece;
  for (Index at = 0; at < in.size(); at += std::ssize(piece)) {
    piece.resize(static_cast<std::size_t>(std::min(in.size() - at, Index{1} << 20)));
    in.read(at, std::ssize(piece), piece.data());
    crc.add(piece);
  }
  return manifest_line(name, static_cast<std::uint64_t>(in.size()), crc.value());
}

inline std::string steps_text(std::span<const std::int64_t> steps) {
  std::string text;
  for (const std::int64_t count : steps) (text += text.empty() ? "" : " ") += std::to_string(count);
  return text;
}
inline std::vector<std::int64_t> read_steps(const SafetensorsFile& file) {
  const std::string& text = detail::metadata_of(file, std::string(steps_key));
  std::vector<std::int64_t> steps;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    const auto read = std::from_chars(at, end, steps.emplace_back());
    if (read.ec != std::errc{} || (read.ptr != end && (*read.ptr != ' ' || read.ptr + 1 == end)))
      reject_file(file.name, steps_key, " is ", shown(text), ", expected step counts separated by blanks");
    at = read.ptr == end ? end : read.ptr + 1;
  }
  return steps;
}

// Allocates the moments that are in the file and releases the others: those of frozen weights.
template <class Optimizer>
void hold_moments(const SafetensorsFile& file, Optimizer& optimizer) {
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& moment) {
        const bool held = file.header.tensors.contains(path);
        if (held != moment.empty()) return;
        held ? moment.allocate() : moment.release();
      },
      optimizer);
}

// Removes a checkpoint's files, the manifest first, and its directory if it is then empty. Returns whether it
// is gone.
template <class Files>
bool remove(const std::filesystem::path& folder) {
  Files::unlink((folder / manifest).c_str());
  for (const std::string_view name : files) Files::unlink((folder / name).c_str());
  return Files::rmdir(folder.c_str()) == 0 || errno == ENOENT;
}

// A checkpoint that is being written, in a directory with another name. Removed unless it is published.
template <class Files>
class Draft {
 public:
  Draft(const std::filesystem::path& parent, const std::string& name)
      : parent_(parent),
        folder_(parent / (std::string(file::temporary_mark) + name + '-' + std::to_string(::getpid()))) {
    remove<Files>(folder_);  // of an earlier process with this number
    if (Files::mkdir(folder_.c_str(), 0777) != 0) file::fail("create", folder_);
  }
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;
  ~Draft() {
    if (!folder_.empty()) remove<Files>(folder_);
  }

  // content(out): writes a file
  template <class Content>
  void write(std::string_view name, Content&& content) {
    Checked out{{new_file_number(name), folder_ / name}, {}, 0};
    content(out);
    close_file(name);
    text_ += manifest_line(name, out.bytes, out.crc.value());
  }
  void publish(const std::filesystem::path& target) {
    FileWriterOf<Files> out(new_file_number(manifest), folder_ / manifest);
    out.write(text_);
    close_file(manifest);
    file::flush_directory<Files>(folder_);
    if (Files::rename(folder_.c_str(), target.c_str()) != 0) file::fail("create", target);
    folder_.clear();
    file::flush_directory<Files>(parent_);
  }

 private:
  struct Checked {
    FileWriterOf<Files> file;
    Crc32c crc;
    std::uint64_t bytes;
    void write(std::string_view piece) {
      file.write(piece);
      crc.add(piece);
      bytes += piece.size();
    }
  };
  int new_file_number(std::string_view name) {
    file_.open(folder_ / name, O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (!file_.is_open()) file::fail("create", folder_ / name);
    return file_.number();
  }
  void close_file(std::string_view name) {
    if (!file_.flush()) file::fail("flush", folder_ / name);
    if (!file_.close()) file::fail("close", folder_ / name);
  }

  std::filesystem::path parent_, folder_;
  file::DescriptorOf<Files> file_;
  std::string text_{title};
};

}  // namespace checkpoint

// What is wrong with a checkpoint: a file that is missing or differs from the manifest; empty if nothing is.
inline std::string fault_of_checkpoint(const std::filesystem::path& path) {
  try {
    const std::string stated = read_file(path / checkpoint::manifest, checkpoint::manifest_bytes);
    if (!stated.starts_with(checkpoint::title))
      return "moegpt: " + (path / checkpoint::manifest).string() + " begins with " +
             shown(stated.substr(0, checkpoint::title.size())) + ", expected " + shown(checkpoint::title);
    std::string found(checkpoint::title);
    for (const std::string_view name : checkpoint::files) {
      const std::string line = checkpoint::manifest_line_of(path, name);
      const std::string_view rest = std::string_view(stated).substr(std::min(found.size(), stated.size()));
      const std::string_view stated_line = rest.substr(0, rest.find('\n'));
      if (rest.substr(0, line.size()) != line)
        return "moegpt: " + (path / name).string() + " has size and CRC-32C " +
               shown(line.substr(name.size() + 1, line.size() - name.size() - 2)) + ", the manifest states " +
               shown(stated_line) + ": the file or the manifest is damaged";
      found += line;
    }
    return stated == found ? ""
                           : "moegpt: " + (path / checkpoint::manifest).string() + " has a line too many";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

// The directories in `folder` that have names of checkpoints, newest first.
inline std::vector<std::filesystem::path> checkpoints_in(const std::filesystem::path& folder) {
  std::vector<std::pair<Index, std::filesystem::path>> found;
  if (std::filesystem::is_directory(folder))
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (const auto step = checkpoint::step_of_name(entry.path().filename().string());
          step && entry.symlink_status().type() == std::filesystem::file_type::directory)
        found.emplace_back(*step, entry.path());
  std::sort(found.rbegin(), found.rend());
  std::vector<std::filesystem::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

struct NewestCheckpoint {
  std::filesystem::path path;         // empty: there is no valid one
  std::vector<std::string> rejected;  // why newer ones were not taken
};
// The newest checkpoint in `folder` without a fault.
inline NewestCheckpoint newest_checkpoint(const std::filesystem::path& folder) {
  NewestCheckpoint newest;
  for (const std::filesystem::path& path : checkpoints_in(folder)) {
    std::string fault = fault_of_checkpoint(path);
    if (fault.empty()) {
      newest.path = path;
      break;
    }
    newest.rejected.push_back(std::move(fault));
  }
  return newest;
}

// Throws what save_checkpoint would throw for the size of the model, its optimizer and its tokenizer, such as
// more tensors than a file may have: before training, not after. Numbers are not read, and nothing is
// written.
template <class Model, class Optimizer>
void check_can_save_checkpoint(const std::filesystem::path& folder, const Model& model,
                               const Optimizer& optimizer, const Tokenizer& tokenizer) {
  check_can_save((folder / checkpoint::files[0]).string(), model, tokenizer);
  (void)prepare_safetensors((folder / checkpoint::files[1]).string(), optimizer, {}, {.check_finite = false});
}

// Writes folder/step_<state.step>, and returns when it is on the disk. A valid checkpoint of this step is
// kept, a damaged one is replaced. Optimizer: Adam, or another tree with steps() and set_steps(). Throws
// std::runtime_error with the reason if it cannot be written, or a weight or moment is not finite,
// std::invalid_argument for a best loss that is not finite; older checkpoints are unchanged in any case.
template <class Files = SystemFiles, class Model, class Optimizer>
std::filesystem::path save_checkpoint(const std::filesystem::path& folder, const Model& model,
                                      const Optimizer& optimizer, const Tokenizer& tokenizer,
                                      const TrainingState& state) {
  check(!state.best_val || std::isfinite(*state.best_val), "save_checkpoint: best_val is ",
        state.best_val.value_or(0), ", expected a finite loss, or none");
  check(!state.best_saved || std::isfinite(state.best_saved->val), "save_checkpoint: best_saved.val is ",
        state.best_saved.value_or(TrainingState::Saved{}).val, ", expected a finite loss, or none");
  const std::string name = checkpoint::name_of(state.step);
  const std::filesystem::path target = folder / name;
  const bool exists = std::filesystem::exists(target);
  if (exists && fault_of_checkpoint(target).empty()) return target;
  const auto model_file = prepare_model_file((target / checkpoint::files[0]).string(), model, tokenizer);
  const auto optimizer_file =
      prepare_safetensors((target / checkpoint::files[1]).string(), optimizer,
                          {{std::string(checkpoint::steps_key), checkpoint::steps_text(optimizer.steps())}});
  checkpoint::Draft<Files> draft(folder, name);
  draft.write(checkpoint::files[0], [&](auto& out) { model_file.write(out); });
  draft.write(checkpoint::files[1], [&](auto& out) { optimizer_file.write(out); });
  draft.write(checkpoint::files[2], [&](auto& out) { out.write(checkpoint::state_text(state)); });
  if (exists) checkpoint::remove<Files>(target);
  draft.publish(target);
  return target;
}

// Which checkpoints are kept.
struct KeepRule {
  std::size_t newest;           // so many of the newest
  Index every = 0;              // those of steps that are multiples of it; 0: none
  std::optional<Index> best{};  // that of this step: TrainingState::best_saved
};
// Removes all checkpoints in `folder` up to `step` that the rule does not keep; newer ones are not touched.
// Returns what could not be removed.
template <class Files = SystemFiles>
std::vector<std::filesystem::path> keep_checkpoints(const std::filesystem::path& folder, Index step,
                                                    KeepRule rule) {
  std::vector<std::filesystem::path> remaining;
  for (const std::filesystem::path& path : checkpoints_in(folder)) {
    const Index of = *checkpoint::step_of_name(path.filename().string());
    if (of > step) continue;
    const bool is_new = rule.newest > 0, is_major = rule.every > 0 && of % rule.every == 0;
    if (is_new) --rule.newest;
    if (!is_new && !is_major && of != rule.best && !checkpoint::remove<Files>(path))
      remaining.push_back(path);
  }
  return remaining;
}

// Removes what a process that ended while it wrote a checkpoint has left in `folder`.
template <class Files = SystemFiles>
void remove_checkpoint_drafts(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> drafts;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().filename().string().starts_with(std::string(file::temporary_mark) +
                                                     std::string(checkpoint::name_start)) &&
        entry.symlink_status().type() == std::filesystem::file_type::directory)
      drafts.push_back(entry.path());
  for (const auto& draft : drafts) checkpoint::remove<Files>(draft);
}

// The state alone. Throws std::runtime_error for a checkpoint with a fault.
inline TrainingState read_training_state(const std::filesystem::path& path) {
  if (const std::string fault = fault_of_checkpoint(path); !fault.empty()) throw std::runtime_error(fault);
  const std::filesystem::path file = path / checkpoint::files[2];
  return checkpoint::read_state(file.string(), read_file(file, checkpoint::state_bytes));
}

// Sets model, optimizer and tokenizer to those of a checkpoint, and returns its state. Throws
// std::runtime_error for a checkpoint with a fault, std::invalid_argument for one of another model type,
// which says what differs; nothing is changed then. A manifest that is right for files that do not fit each
// other is found, too, but the model is then changed.
template <class Model, class Optimizer>
TrainingState load_checkpoint(const std::filesystem::path& path, Model& model, Optimizer& optimizer,
                              Tokenizer& tokenizer) {
  TrainingState state = read_training_state(path);
  load(read_safetensors(path / checkpoint::files[0]), model, tokenizer);
  const SafetensorsFile moments = read_safetensors(path / checkpoint::files[1]);
  const std::vector<std::int64_t> steps = checkpoint::read_steps(moments);
  checkpoint::hold_moments(moments, optimizer);
  load_safetensors(moments, optimizer);
  optimizer.set_steps(steps);
  return state;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
