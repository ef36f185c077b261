#pragma once
// System calls that are counted and recorded, and of which one fails, or all from one on: the parameter Files
// of what writes files. Only one recording at a time.
#include <moegpt/io/file.hpp>

#include <string>
#include <vector>

struct FileOperation {
  enum Kind { open, write, fsync, close, rename, unlink, mkdir, rmdir } kind;
  std::string path;  // of open, rename, unlink, mkdir and rmdir
  std::string text;  // the bytes written, or the new name
  int number = -1;   // the descriptor of open, write, fsync and close
};

struct FaultyFiles {
  enum class Fault { io_error, disk_full, interrupted, short_write };
  static constexpr Fault faults[] = {Fault::io_error, Fault::disk_full, Fault::interrupted,
                                     Fault::short_write};
  static inline std::vector<FileOperation> log;
  static inline int calls = 0, fails_at = -1;
  static inline bool stays = false;  // whether later calls fail, too
  static inline Fault fault = Fault::io_error;

  // Call number `at` of those to come fails; -1: none.
  static void begin(int at = -1, Fault what = Fault::io_error, bool on = false) {
    log.clear();
    calls = 0, fails_at = at, fault = what, stays = on;
  }

  static int open(const char* path, int flags, mode_t mode) {
    if (fails()) return -1;
    const int number = moegpt::SystemFiles::open(path, flags, mode);
    if (number >= 0) log.push_back({FileOperation::open, path, {}, number});
    return number;
  }
  static ssize_t write(int number, const char* bytes, std::size_t count) {
    if (due() && fault == Fault::short_write)
      count = (count + 1) / 2;
    else if (due() && fault == Fault::disk_full && count > 1)
      ++fails_at, count /= 2;  // the disk takes a part, and nothing after it
    else if (due()) {
      ++calls;
      return failed();
    }
    ++calls;
    const ssize_t done = moegpt::SystemFiles::write(number, bytes, count);
    if (done > 0) log.push_back({FileOperation::write, {}, {bytes, static_cast<std::size_t>(done)}, number});
    return done;
  }
  static int fsync(int number) {
    if (fails()) return -1;
    log.push_back({FileOperation::fsync, {}, {}, number});
    return 0;  // not flushed: a test loses its power only in tests/support/power_loss.hpp
  }
  // A close that fails has closed.
  static int close(int number) {
    const bool bad = fails();
    log.push_back({FileOperation::close, {}, {}, number});
    const int result = moegpt::SystemFiles::close(number);
    return bad ? failed() : result;
  }
  static int rename(const char* from, const char* to) {
    if (fails()) return -1;
    const int result = moegpt::SystemFiles::rename(from, to);
    if (result == 0) log.push_back({FileOperation::rename, from, to});
    return result;
  }
  static int unlink(const char* path) {
    if (fails()) return -1;
    const int result = moegpt::SystemFiles::unlink(path);
    if (result == 0) log.push_back({FileOperation::unlink, path, {}});
    return result;
  }
  static int mkdir(const char* path, mode_t mode) {
    if (fails()) return -1;
    const int result = moegpt::SystemFiles::mkdir(path, mode);
    if (result == 0) log.push_back({FileOperation::mkdir, path, {}});
    return result;
  }
  static int rmdir(const char* path) {
    if (fails()) return -1;
    const int result = moegpt::SystemFiles::rmdir(path);
    if (result == 0) log.push_back({FileOperation::rmdir, path, {}});
    return result;
  }

 private:
  static bool due() {
    return fails_at >= 0 && (calls == fails_at || (stays && calls > fails_at && fault != Fault::interrupted));
  }
  static int failed() {
    errno = fault == Fault::disk_full ? ENOSPC : fault == Fault::interrupted ? EINTR : EIO;
    return -1;
  }
  static bool fails() {
    const bool now = due() && fault != Fault::short_write;
    ++calls;
    if (now) failed();
    return now;
  }
};
