#pragma once
// A safetensors file to read: its header is validated at once, bytes of its tensors are read on request.
#include <moegpt/io/safetensors_header.hpp>

#include <memory>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Copies share one open file.
class SafetensorsFile {
 public:
  std::string name;  // for messages
  SafetensorsHeader header;

  // See read_safetensors and parse_safetensors.
  explicit SafetensorsFile(const std::filesystem::path& path)
      : name(path.string()), file_(std::make_shared<FileReader>(path)) {
    read_header(file_->size());
  }
  SafetensorsFile(std::string bytes, std::string name_) : name(std::move(name_)), memory_(std::move(bytes)) {
    read_header(std::ssize(memory_));
  }

  // Bytes [at, at + count) of the data. Throws std::runtime_error if they cannot be read.
  void read(Index at, Index count, char* to) const { read_bytes(data_at_ + at, count, to); }
  // All bytes of a tensor; for_each_number converts them.
  std::string bytes(const TensorInfo& tensor) const {
    std::string all(static_cast<std::size_t>(tensor.end - tensor.begin), '\0');
    read(tensor.begin, tensor.end - tensor.begin, all.data());
    return all;
  }
  // Throws std::runtime_error if another program has changed the file since it was opened.
  void check_unchanged() const {
    if (file_) file_->check_unchanged();
  }

 private:
  void read_bytes(Index at, Index count, char* to) const {
    if (file_)
      file_->read(at, count, to);
    else
      memory_.copy(to, static_cast<std::size_t>(count), static_cast<std::size_t>(at));
  }
  void read_header(Index size) {
    if (size < 8) reject_file(name, "has ", size, " bytes, expected at least 8: not a safetensors file");
    std::uint64_t header_bytes = 0;
    read_bytes(0, 8, reinterpret_cast<char*>(&header_bytes));
    if (header_bytes > SafetensorsLimits::header_bytes)
      reject_file(name, "announces a header of ", header_bytes, " bytes, expected at most ",
                  SafetensorsLimits::header_bytes, ": not a safetensors file");
    data_at_ = static_cast<Index>(8 + header_bytes);
    if (data_at_ > size)
      reject_file(name, "announces a header of ", header_bytes, " bytes, but only ", size - 8,
                  " follow: cut short or not a safetensors file");
    std::string text(header_bytes, '\0');
    read_bytes(8, std::ssize(text), text.data());
    header = parse_safetensors_header(text, size - data_at_, name);
  }

  std::shared_ptr<const FileReader> file_;  // null: in memory
  std::string memory_;
  Index data_at_ = 0;
};

// Opens a file and validates its header. Throws std::runtime_error with the file's name, what was found and
// what was expected.
inline SafetensorsFile read_safetensors(const std::filesystem::path& path) { return SafetensorsFile(path); }

// The same for the bytes of a whole file. `name` is the file's in messages.
inline SafetensorsFile parse_safetensors(std::string bytes, std::string name) {
  return {std::move(bytes), std::move(name)};
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
