#include <moegpt/io/file.hpp>

#include "../support/faulty_files.hpp"
#include "support.hpp"

#include <chrono>
#include <csignal>
#include <sys/resource.h>

using namespace moegpt;

namespace {

// No file may grow past `bytes` while it lives: a full disk, also for root.
struct FullDisk {
  explicit FullDisk(rlim_t bytes) {
    old_signal = std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &old_limit);
    const rlimit small{bytes, old_limit.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
  }
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &old_limit);
    std::signal(SIGXFSZ, old_signal);
  }
  rlimit old_limit{};
  void (*old_signal)(int) = nullptr;
};

// While it lives, the process is not root's. `is`: whether it could be had, and so what is asked makes sense.
struct PlainUser {
  uid_t before = ::geteuid();
  bool is = before != 0 || ::seteuid(65534) == 0;
  ~PlainUser() { is = ::seteuid(before) == 0; }
};

}  // namespace

TEST_CASE("a file reads back as it was written, zero bytes and all") {
  TemporaryFolder folder;
  const std::string text("one\0two\n\xff", 9);
  write_file_atomically(folder / "a", [&](FileWriter& out) { out.write(text); });
  CHECK(read_file(folder / "a") == text);
  CHECK(folder.files() == 1);
}

TEST_CASE("a file that cannot be read is named with the reason") {
  TemporaryFolder folder;
  put(folder / "empty", "");
  const std::string missing = error_of([&] { read_file(folder / "missing.txt"); });
  CHECK(has(missing, "missing.txt"));
  CHECK(has(missing, "No such file"));
  CHECK(has(error_of([&] { read_file(folder.path); }), "but a directory"));
  CHECK(has(error_of([&] { read_file(folder / "empty"); }), "empty: is empty"));
  CHECK(has(error_of([&] { read_file("/dev/zero"); }), "/dev/zero: is not a regular file, but a device"));
  CHECK_THROWS_AS(read_file(folder / "missing.txt"), std::runtime_error);
}

TEST_CASE("an open file is read from any place, and is the same file when another one takes its path") {
  TemporaryFolder folder;
  put(folder / "a", "0123456789");
  const FileReader in(folder / "a");
  CHECK(in.size() == 10);
  char text[] = "....";
  in.read(3, 4, text);
  CHECK(std::string(text) == "3456");
  in.read(0, 0, text);
  CHECK(has(error_of([&] { in.read(8, 4, text); }), "a: ended after 10 bytes, expected 10"));
  write_file_atomically(folder / "a", [](FileWriter& out) { out.write("new"); });
  in.read(6, 4, text);
  CHECK(std::string(text) == "6789");
  in.check_unchanged();
}

TEST_CASE("an open file notices that it is written to, becomes longer or shorter") {
  TemporaryFolder folder;
  const auto long_ago = std::filesystem::file_time_type::clock::now() - std::chrono::hours(1);
  for (const char* text : {"abcd", "0123456789", "012"}) {
    put(folder / "a", "0123");
    std::filesystem::last_write_time(folder / "a", long_ago);
    const FileReader in(folder / "a");
    in.check_unchanged();
    put(folder / "a", text);
    if (std::string_view(text).size() != 4) std::filesystem::last_write_time(folder / "a", long_ago);
    CHECK(has(error_of([&] { in.check_unchanged(); }), "a: was changed while it was read: read it again"));
  }
  put(folder / "a", "0123");
  const FileReader in(folder / "a");
  put(folder / "a", "01");
  char text[4];
  CHECK(has(error_of([&] { in.read(0, 4, text); }), "a: ended after 2 bytes, expected 4"));
}

TEST_CASE("an existing file is replaced and keeps its permissions") {
  TemporaryFolder folder;
  put(folder / "a", "old");
  std::filesystem::permissions(folder / "a", std::filesystem::perms(0600));
  write_file_atomically(folder / "a", [](FileWriter& out) { out.write("new"); });
  CHECK(get(folder / "a") == "new");
  CHECK(std::filesystem::status(folder / "a").permissions() == std::filesystem::perms(0600));
}

TEST_CASE("a symbolic link is followed, not replaced") {
  TemporaryFolder folder;
  put(folder / "a", "old");
  std::filesystem::create_symlink("a", folder / "link");
  write_file_atomically(folder / "link", [](FileWriter& out) { out.write("new"); });
  CHECK(get(folder / "a") == "new");
  CHECK(std::filesystem::is_symlink(folder / "link"));
}

TEST_CASE("a file name without a directory is written to the working directory") {
  TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path);
  write_file_atomically("plain", [](FileWriter& out) { out.write("x"); });
  std::filesystem::current_path(before);
  CHECK(get(folder / "plain") == "x");
}

TEST_CASE("when the disk is full the old file is unchanged and no temporary file remains") {
  TemporaryFolder folder;
  put(folder / "a", "old");
  std::string error;
  {
    FullDisk disk(4096);
    error = error_of([&] {
      write_file_atomically(folder / "a", [](FileWriter& out) { out.write(std::string(10000, 'x')); });
    });
  }
  CHECK(has(error, "cannot write " + (folder / "a").string()));
  CHECK(has(error, "File too large"));
  CHECK(get(folder / "a") == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("when the writer throws the old file is unchanged and no temporary file remains") {
  TemporaryFolder folder;
  put(folder / "a", "old");
  auto stop = [](FileWriter& out) {
    out.write("half");
    throw std::runtime_error("stopped");
  };
  CHECK(error_of([&] { write_file_atomically(folder / "a", stop); }) == "stopped");
  CHECK(error_of([&] { write_file_atomically(folder / "b", stop); }) == "stopped");
  CHECK(get(folder / "a") == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("a path that cannot be written is named with the reason") {
  TemporaryFolder folder;
  auto nothing = [](FileWriter&) {};
  const std::string error = error_of([&] { write_file_atomically(folder / "no/such/a", nothing); });
  CHECK(has(error, (folder / "no/such").string()));
  CHECK(has(error, "No such file or directory"));
  CHECK(has(error_of([&] { write_file_atomically(folder.path, nothing); }), "not a regular file"));
  CHECK(has(error_of([&] { write_file_atomically("/dev/null", nothing); }), "not a regular file"));
  CHECK(std::filesystem::is_character_file("/dev/null"));
  CHECK(folder.files() == 0);
}

TEST_CASE("a device that is full is an error of the write") {
  file::Descriptor full;
  full.open("/dev/full", O_WRONLY);
  if (!full.is_open()) return;  // not every container has it
  FileWriter out(full.number(), "a.safetensors");
  CHECK(error_of([&] { out.write("x"); }) == "moegpt: cannot write a.safetensors: No space left on device");
}

TEST_CASE("check_can_write throws what writing would throw, and changes nothing") {
  TemporaryFolder folder;
  put(folder / "old", "old");
  put(folder / "empty", "");
  std::filesystem::permissions(folder / "empty", std::filesystem::perms(0600));
  std::filesystem::create_directory(folder / "directory");
  std::filesystem::create_symlink("missing", folder / "dangling");
  std::filesystem::create_symlink("empty", folder / "link");
  std::filesystem::create_symlink("directory/../link", folder / "link to a link");
  std::filesystem::create_symlink("loop", folder / "loop");
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  const int files = folder.files();
  for (const char* name : {"old", "empty", "dangling", "link", "link to a link", "fresh"}) {
    CAPTURE(name);
    CHECK(error_of([&] { check_can_write(folder / name); }) == "");
  }
  const auto wrong = {
      folder / "directory",           folder / "pipe",         folder / "loop",
      folder / "no/such/a",           folder / "old/a",        folder / "fresh/",
      folder / std::string(300, 'x'), std::filesystem::path(), std::filesystem::path("/dev/null")};
  for (const auto& path : wrong) {
    CAPTURE(path);
    const std::string error = error_of([&] { check_can_write(path); });
    CHECK(error != "");
    CHECK(error == error_of([&] { write_file_atomically(path, [](FileWriter&) {}); }));
  }
  CHECK(folder.files() == files);
  CHECK(get(folder / "old") == "old");
  CHECK(std::filesystem::file_size(folder / "empty") == 0);
  CHECK(std::filesystem::status(folder / "empty").permissions() == std::filesystem::perms(0600));
  CHECK(std::filesystem::is_symlink(folder / "dangling"));
  CHECK_FALSE(std::filesystem::exists(folder / "missing"));
  CHECK(std::filesystem::is_fifo(folder / "pipe"));
  CHECK(std::filesystem::is_character_file("/dev/null"));
}

TEST_CASE("a link to a file that is not there yet is followed") {
  TemporaryFolder folder;
  std::filesystem::create_symlink("fresh", folder / "link");
  write_file_atomically(folder / "link", [](FileWriter& out) { out.write("new"); });
  CHECK(get(folder / "fresh") == "new");
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(folder.files() == 2);
}

TEST_CASE(
    "a file without permission to write is replaced where its directory has it, and rejected where it has "
    "not") {
  TemporaryFolder folder;
  std::filesystem::permissions(folder.path, std::filesystem::perms(0777));
  const PlainUser user;
  if (!user.is) return;  // root in a container that has no other user
  put(folder / "kept", "old");
  std::filesystem::permissions(folder / "kept", std::filesystem::perms(0400));
  std::filesystem::create_directory(folder / "closed");
  put(folder / "closed/a", "old");
  std::filesystem::permissions(folder / "closed", std::filesystem::perms(0500));

  check_can_write(folder / "kept");
  CHECK(get(folder / "kept") == "old");
  write_file_atomically(folder / "kept", [](FileWriter& out) { out.write("new"); });
  CHECK(get(folder / "kept") == "new");
  for (const char* name : {"closed/a", "closed/fresh"}) {
    const std::string error = error_of([&] { check_can_write(folder / name); });
    CHECK(has(error, "Permission denied"));
    CHECK(error == error_of([&] { write_file_atomically(folder / name, [](FileWriter&) {}); }));
  }
  CHECK(get(folder / "closed/a") == "old");
  std::filesystem::permissions(folder / "closed", std::filesystem::perms(0700));
}

TEST_CASE("a file of another user in a sticky directory is rejected before anything is written") {
  TemporaryFolder folder;
  put(folder / "theirs", "old");
  std::filesystem::permissions(folder.path, std::filesystem::perms(01777));
  if (::geteuid() != 0) return;  // nobody else to leave a file there
  {
    const PlainUser user;
    if (!user.is) return;
    bool begun = false;
    const std::string error = error_of([&] { check_can_write(folder / "theirs"); });
    CHECK(has(error, "cannot replace " + (folder / "theirs").string() + ": Operation not permitted"));
    CHECK(error ==
          error_of([&] { write_file_atomically(folder / "theirs", [&](FileWriter&) { begun = true; }); }));
    CHECK_FALSE(begun);
    check_can_write(folder / "ours");
  }
  check_can_write(folder / "theirs");
  CHECK(get(folder / "theirs") == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("whichever system call fails, the file is the old one or the complete new one") {
  using Fault = FaultyFiles::Fault;
  const std::string bytes(3000, 'n');
  for (const bool exists : {false, true})
    for (const bool stays : {false, true})
      for (const Fault fault : FaultyFiles::faults) {
        int failed = 0;
        for (int at = 0;; ++at) {
          CAPTURE(exists, stays, static_cast<int>(fault), at);
          TemporaryFolder folder;
          if (exists) put(folder / "a", "old");
          FaultyFiles::begin(at, fault, stays);
          const std::string error = error_of([&] {
            write_file_atomically<FaultyFiles>(folder / "a", [&](auto& out) {
              out.write(std::string_view(bytes).substr(0, 1000));
              out.write(std::string_view(bytes).substr(1000));
            });
          });
          const bool ended = FaultyFiles::calls <= at;
          failed += !error.empty();
          const std::string now = get(folder / "a");
          CHECK((now == bytes || now == (exists ? "old" : "")));
          if (error.empty()) CHECK(now == bytes);
          if (fault == Fault::short_write) CHECK(error == "");
          if (!error.empty()) CHECK(has(error, (folder / "a").string()));
          if (!stays) CHECK(folder.files() == (now.empty() ? 0 : 1));
          if (ended) break;
        }
        if (fault == Fault::io_error)
          CHECK(failed >= 7);  // open twice, write twice, fsync twice, close, rename
        if (fault == Fault::interrupted && !stays) CHECK(failed <= 1);  // rename alone gives up
      }
}
