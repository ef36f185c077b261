#pragma once
// A file that grows by whole pieces, such as lines, while other programs read it.
#include <moegpt/io/file.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Files: the system calls (io/file.hpp).
template <class Files = SystemFiles>
class AppendedFile {
 public:
  enum class Start { create, go_on };  // go_on: behind the content of an existing file, or in a new one

  // Throws std::runtime_error if the file cannot be opened; create: if there is one already.
  AppendedFile(const std::filesystem::path& path, Start start) {
    file_.open(path, O_WRONLY | O_CREAT | O_APPEND | (start == Start::create ? O_EXCL : 0), 0666);
    if (!file_.is_open()) file::fail("create", path);
  }

  // Memory that the next append() writes; append a piece to it. Empty, unless the disk refused something.
  std::string& waiting() { return waiting_; }
  // Writes all that waits, by one system call if the disk takes it. Returns whether the file has it all. If
  // not, error() says why; the rest waits for the next call, so that nothing is torn for good. While more
  // than 64 MiB wait, further pieces are dropped.
  bool append() {
    if (waiting_.size() > most_waiting && complete_ > 0) waiting_.resize(complete_);
    std::size_t done = 0;
    error_ = 0;
    while (done < waiting_.size() && error_ == 0) {
      const ssize_t count = Files::write(file_.number(), waiting_.data() + done, waiting_.size() - done);
      if (count > 0)
        done += static_cast<std::size_t>(count);
      else if (count == 0 || errno != EINTR)
        error_ = count == 0 ? EIO : errno;
    }
    waiting_.erase(0, done);
    complete_ = waiting_.size();
    return error_ == 0;
  }
  // The same, and makes the disk keep it, as before a checkpoint.
  bool flush() {
    if (!append()) return false;
    error_ = file_.flush() || errno == EINVAL ? 0 : errno;  // EINVAL: a pipe or terminal
    return error_ == 0;
  }
  std::string error() const { return error_ == 0 ? "" : std::generic_category().message(error_); }

 private:
  static constexpr std::size_t most_waiting = std::size_t{1} << 26;
  file::DescriptorOf<Files> file_;
  std::string waiting_;
  std::size_t complete_ = 0;  // bytes of `waiting_` that the last call left
  int error_ = 0;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
