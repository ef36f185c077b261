#pragma once
// Reading of files, and atomic writing of whole ones. After a crash, a full disk or an error there is either
// the old file or the complete new one. What writes has the system calls as a parameter, Files, so that a
// test can record them and make each of them fail.
#include <moegpt/core/matrix.hpp>

#include <cerrno>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Throws std::runtime_error: the file's name, then the concatenated parts.
template <class... Parts>
[[noreturn]] void reject_file(const std::string& name, const Parts&... parts) {
  std::string text = "moegpt: " + name + ": ";
  (append_text(text, parts), ...);
  throw std::runtime_error(text);
}

// The system calls that change files, with their results and errno.
struct SystemFiles {
  static int open(const char* path, int flags, mode_t mode) { return ::open(path, flags, mode); }
  static ssize_t write(int number, const char* bytes, std::size_t count) {
    return ::write(number, bytes, count);
  }
  static int fsync(int number) { return ::fsync(number); }
  static int close(int number) { return ::close(number); }
  static int rename(const char* from, const char* to) { return ::rename(from, to); }
  static int unlink(const char* path) { return ::unlink(path); }
  static int mkdir(const char* path, mode_t mode) { return ::mkdir(path, mode); }
  static int rmdir(const char* path) { return ::rmdir(path); }
};

namespace file {

// Throws std::system_error, a std::runtime_error whose text ends with the system's reason.
[[noreturn]] inline void fail(std::string_view action, const std::filesystem::path& path,
                              int reason = errno) {
  throw std::system_error(reason, std::generic_category(),
                          "moegpt: cannot " + std::string(action) + " " + path.string());
}

template <class Files>
class DescriptorOf {
 public:
  DescriptorOf() = default;
  DescriptorOf(const DescriptorOf&) = delete;
  DescriptorOf& operator=(const DescriptorOf&) = delete;
  ~DescriptorOf() { close(); }
  int number() const { return number_; }
  bool is_open() const { return number_ >= 0; }
  void open(const std::filesystem::path& path, int flags, mode_t mode = 0) {
    close();
    do number_ = Files::open(path.c_str(), flags | O_CLOEXEC, mode);
    while (number_ < 0 && errno == EINTR);
  }
  // Interrupted, Linux has closed it nevertheless.
  bool close() {
    const int number = std::exchange(number_, -1);
    return number < 0 || Files::close(number) == 0 || errno == EINTR;
  }
  bool flush() const {
    int result;
    do result = Files::fsync(number_);
    while (result != 0 && errno == EINTR);
    return result == 0;
  }

 private:
  int number_ = -1;
};
using Descriptor = DescriptorOf<SystemFiles>;

// Flushes the names in a directory: what was created, renamed or removed in it.
template <class Files>
void flush_directory(const DescriptorOf<Files>& directory, const std::filesystem::path& path) {
  // EINVAL: this file system cannot flush a directory.
  if (!directory.flush() && errno != EINVAL) fail("flush the directory of", path);
}
template <class Files>
void flush_directory(const std::filesystem::path& path) {
  DescriptorOf<Files> directory;
  directory.open(path, O_RDONLY | O_DIRECTORY);
  if (!directory.is_open()) fail("open the directory", path);
  flush_directory(directory, path / "");
}

// Opens a regular file for reading, and returns its status. Throws std::runtime_error if it is missing,
// unreadable, or of another kind. Does not wait for the writer of a pipe.
inline struct stat open_regular(Descriptor& in, const std::filesystem::path& path) {
  in.open(path, O_RDONLY | O_NONBLOCK);
  if (!in.is_open()) fail("open", path);
  struct stat status{};
  if (::fstat(in.number(), &status) != 0) fail("get the status of", path);
  if (!S_ISREG(status.st_mode))
    reject_file(path.string(), "is not a regular file, but a ",
                S_ISDIR(status.st_mode) ? "directory" : "device or pipe");
  return status;
}

template <class Stat>
timespec last_write(const Stat& status) {
  if constexpr (requires { status.st_mtim; })
    return status.st_mtim;
  else
    return status.st_mtimespec;  // macOS
}

}  // namespace file

// A regular file, open for reading. It stays the same file if another one takes its path.
class FileReader {
 public:
  // Throws std::runtime_error if it is missing, a directory or a device, empty, or unreadable.
  explicit FileReader(const std::filesystem::path& path) : path_(path) {
    opened_ = file::open_regular(in_, path);
    if (opened_.st_size == 0) reject_file(path.string(), "is empty");
  }
  Index size() const { return opened_.st_size; }  // when it was opened

  // Bytes [at, at + count). Throws std::runtime_error if the file ends before, or cannot be read.
  void read(Index at, Index count, char* to) const {
    for (Index done = 0; done < count;) {
      const ssize_t more =
          ::pread(in_.number(), to + done, static_cast<std::size_t>(count - done), at + done);
      if (more < 0 && errno == EINTR) continue;
      if (more < 0) file::fail("read", path_);
      if (more == 0) reject_file(path_.string(), "ended after ", at + done, " bytes, expected ", size());
      done += more;
    }
  }
  // Throws std::runtime_error if its size or the time of its last write is another than when it was opened.
  void check_unchanged() const {
    const struct stat now = status();
    const timespec then = file::last_write(opened_), last = file::last_write(now);
    if (now.st_size != opened_.st_size || last.tv_sec != then.tv_sec || last.tv_nsec != then.tv_nsec)
      reject_file(path_.string(), "was changed while it was read: read it again");
  }

 private:
  struct stat status() const {
    struct stat now{};
    if (::fstat(in_.number(), &now) != 0) file::fail("get the status of", path_);
    return now;
  }
  std::filesystem::path path_;
  file::Descriptor in_;
  struct stat opened_{};
};

// The bytes of a regular file. Throws as FileReader does, and std::runtime_error for more than `most` bytes.
inline std::string read_file(const std::filesystem::path& path,
                             Index most = std::numeric_limits<Index>::max()) {
  const FileReader in(path);
  if (in.size() > most) reject_file(path.string(), "has ", in.size(), " bytes, expected at most ", most);
  std::string bytes(static_cast<std::size_t>(in.size()), '\0');
  in.read(0, in.size(), bytes.data());
  return bytes;
}

// An open file that is written from begin to end. Every write is checked.
template <class Files>
class FileWriterOf {
 public:
  FileWriterOf(int descriptor, std::filesystem::path path)
      : descriptor_(descriptor), path_(std::move(path)) {}

  // Throws std::runtime_error with the system's reason (disk full, quota, I/O error).
  void write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = Files::write(descriptor_, bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) file::fail("write", path_);
      if (count == 0) file::fail("write", path_, EIO);  // it would be tried for ever
      bytes.remove_prefix(static_cast<std::size_t>(count));
    }
  }

 private:
  int descriptor_;
  std::filesystem::path path_;
};
using FileWriter = FileWriterOf<SystemFiles>;

namespace file {

// The target of a path: symbolic links are followed, to a file that need not exist.
inline std::filesystem::path resolved(std::filesystem::path path) {
  for (int links = 0; std::filesystem::is_symlink(path); ++links) {
    if (links == 40) fail("follow the links of", path, ELOOP);
    const std::filesystem::path to = std::filesystem::read_symlink(path);
    path = to.is_absolute() ? to : path.parent_path() / to;
  }
  return path;
}

// Part of the names of incomplete files, NAME.tmp-PROCESS-ATTEMPT, and of incomplete directories.
inline constexpr std::string_view temporary_mark = ".tmp-";

// A new file in the directory of its target. publish() replaces the target by it; otherwise it is removed.
template <class Files>
class Replacement {
 public:
  explicit Replacement(const std::filesystem::path& path) : path_(path), target_(resolved(path)) {
    if (!target_.has_filename()) reject_file("'" + path.string() + "'", "names no file");
    struct stat old{};
    const bool exists = ::stat(target_.c_str(), &old) == 0;
    if (exists && !S_ISREG(old.st_mode)) reject_file(path.string(), "exists and is not a regular file");
    const auto parent = target_.has_parent_path() ? target_.parent_path() : std::filesystem::path(".");
    directory_.open(parent, O_RDONLY | O_DIRECTORY);
    if (!directory_.is_open()) fail("write " + path.string() + ": cannot open the directory", parent);
    if (exists && !may_replace(old.st_uid)) fail("replace", path, EPERM);
    for (int attempt = 0; !file_.is_open(); ++attempt) {
      temporary_ = target_;
      temporary_ += temporary_mark;
      temporary_ += std::to_string(::getpid()) + "-" + std::to_string(attempt);
      file_.open(temporary_, O_WRONLY | O_CREAT | O_EXCL, 0666);
      if (!file_.is_open() && errno != EEXIST) fail("create a file beside", path);
    }
    if (exists && ::fchmod(file_.number(), old.st_mode & 07777) != 0) abandon("set the permissions of");
  }
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;
  ~Replacement() { discard(); }

  FileWriterOf<Files> writer() const { return {file_.number(), path_}; }

  void publish() {
    if (!file_.flush()) fail("flush", path_);
    if (!file_.close()) fail("close", path_);
    if (Files::rename(temporary_.c_str(), target_.c_str()) != 0) fail("replace", path_);
    temporary_.clear();
    flush_directory(directory_, path_);
  }

 private:
  // In a sticky directory, such as /tmp, only the file's owner, the directory's owner and root can replace a
  // file.
  bool may_replace(uid_t owner) const {
    struct stat directory{};
    const uid_t user = ::geteuid();
    return ::fstat(directory_.number(), &directory) != 0 || (directory.st_mode & S_ISVTX) == 0 || user == 0 ||
           user == owner || user == directory.st_uid;
  }
  // For the constructor, which runs no destructor of its own class if it throws.
  [[noreturn]] void abandon(std::string_view action) {
    const int reason = errno;
    discard();
    fail(action, path_, reason);
  }
  void discard() {
    file_.close();
    if (!temporary_.empty()) Files::unlink(temporary_.c_str());
  }
  std::filesystem::path path_, target_, temporary_;
  DescriptorOf<Files> directory_, file_;
};

}  // namespace file

// Throws what write_file_atomically would throw before it writes: for a target that is a directory or a
// device, or another user's file in a sticky directory, and for a directory in which no file can be created.
// The target is not opened, changed or created.
inline void check_can_write(const std::filesystem::path& path) {
  file::Replacement<SystemFiles> unused(path);
}

// Replaces the file at `path` by what writer(FileWriter&) writes: to a new file in its directory, which is
// flushed to disk and renamed to `path`; then the directory is flushed. Permissions of an existing file are
// kept, symbolic links are followed. If anything throws, the old file is unchanged and the new one removed.
// Throws std::runtime_error with the path and the system's reason, or what `writer` throws.
template <class Files = SystemFiles, class Writer>
void write_file_atomically(const std::filesystem::path& path, Writer&& writer) {
  file::Replacement<Files> replacement(path);
  FileWriterOf<Files> out = replacement.writer();
  writer(out);
  replacement.publish();
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
