#pragma once
// Files of token ids: a header of llm.c and its ids, or ids alone (as nanoGPT's). Little-endian. They are
// mapped, so that a process need not hold them, or read.
//
// llm.c's header: 256 int32, of which the first three are magic, version and the number of ids; then
//   magic 20240520, version 1: uint16 ids, of GPT-2; magic 20240801, version 7: uint32 ids, of Llama 3
// Each document begins with the id 50256 (GPT-2), or 128000.
#include <moegpt/data/token_sequence.hpp>
#include <moegpt/io/file.hpp>

#include <array>
#include <bit>
#include <limits>
#include <optional>

#include <sys/mman.h>

namespace moegpt {
inline namespace MOEGPT_BUILD {

static_assert(std::endian::native == std::endian::little, "token files hold little-endian numbers");

struct TokenFileOptions {
  Index vocab;                         // each id must be below
  std::optional<TokenType> type = {};  // of the ids of files without a header; none: such files are refused
  bool mapped = true;                  // false: read into memory
};

namespace token_file {

struct Format {
  std::int32_t magic, version;
  TokenType type;
  int separator;  // of the vocabulary that llm.c writes in this format
};
inline constexpr Format formats[] = {{20240520, 1, TokenType::u16, 50256},
                                     {20240801, 7, TokenType::u32, 128000}};
using Header = std::array<std::int32_t, 256>;
inline constexpr Index header_bytes = sizeof(Header);

// A file in memory: its whole bytes, mapped or read.
struct Contents {
  Index size;
  std::shared_ptr<const void> memory;
  const char* bytes() const { return static_cast<const char*>(memory.get()); }
};
inline Contents contents_of(const std::filesystem::path& path, bool mapped) {
  if (!mapped) {
    auto bytes = std::make_shared<const std::string>(read_file(path));
    return {std::ssize(*bytes), {bytes, bytes->data()}};
  }
  file::Descriptor in;
  const struct stat status = file::open_regular(in, path);
  if (status.st_size == 0) reject_file(path.string(), "is empty");
  const auto size = static_cast<std::size_t>(status.st_size);
  void* const memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, in.number(), 0);
  if (memory == MAP_FAILED) file::fail("map", path);
  return {static_cast<Index>(size),
          {memory, [size](const void* m) { ::munmap(const_cast<void*>(m), size); }}};
}

// That of a file's header; null: the file begins with no magic number. Throws what FileReader throws.
inline const Format* format_of(const std::filesystem::path& path) {
  const FileReader in(path);
  std::int32_t magic = 0;
  if (in.size() < Index{sizeof magic}) return nullptr;
  in.read(0, sizeof magic, reinterpret_cast<char*>(&magic));
  const auto* found = std::find_if(std::begin(formats), std::end(formats),
                                   [&](const Format& format) { return format.magic == magic; });
  return found == std::end(formats) ? nullptr : found;
}

struct Layout {
  TokenType type;
  Index first_byte, count;
};
// From the header, if the file begins with a magic number, or from its size.
inline Layout layout_of(const std::string& name, const Contents& file, std::optional<TokenType> type) {
  Header header{};
  std::memcpy(header.data(), file.bytes(), static_cast<std::size_t>(std::min(file.size, header_bytes)));
  for (const Format& format : formats) {
    if (header[0] != format.magic) continue;
    if (file.size < header_bytes)
      reject_file(name, "has ", file.size, " bytes, expected a header of ", header_bytes);
    if (header[1] != format.version)
      reject_file(name, "has version ", header[1], ", expected ", format.version,
                  " of llm.c's token files with magic number ", format.magic);
    const Index found = file.size - header_bytes, count = header[2];
    if (count * bytes_of(format.type) != found)
      reject_file(name, "has ", found, " bytes of ids, but its header says ", count, " ids of ",
                  bytes_of(format.type), " bytes");
    return {format.type, header_bytes, count};
  }
  if (!type)
    reject_file(name,
                "does not begin with a magic number of llm.c's token files (20240520, 20240801): if it "
                "holds ids alone, state their type");
  if (file.size % bytes_of(*type) != 0)
    reject_file(name, "has ", file.size, " bytes, expected ids of ", bytes_of(*type), " bytes");
  return {*type, 0, file.size / bytes_of(*type)};
}

template <class U>
void check_ids(const std::string& name, const U* ids, Index count, Index vocab) {
  if (static_cast<std::uint64_t>(vocab) > std::numeric_limits<U>::max()) return;
  const U limit = static_cast<U>(vocab);
  constexpr Index piece = 1 << 12;
  for (Index first = 0; first < count; first += piece) {
    const Index end = std::min(count, first + piece);
    U most = 0;
    for (Index i = first; i < end; ++i) most = std::max(most, ids[i]);
    if (most < limit) continue;
    Index i = first;
    while (ids[i] < limit) ++i;
    reject_file(name, "token ", i, " has id ", ids[i], ", expected 0 .. ", vocab - 1,
                ": the file is of another vocabulary, or its ids are of another type");
  }
}

}  // namespace token_file

// The ids of a file. Throws std::invalid_argument for a vocabulary of no ids or more than 2^31 - 1;
// std::runtime_error for a file that is missing, empty, not regular, of a size or header other than stated
// above, and for an id that is not below options.vocab, with its index. All ids are checked, once. A mapped
// file must not become shorter while it is in use: the system would end the process (SIGBUS).
inline TokenSequence read_tokens(const std::filesystem::path& path, const TokenFileOptions& options) {
  constexpr Index most = std::numeric_limits<int>::max();
  check(options.vocab > 0 && options.vocab <= most, "read_tokens: the vocabulary has ", options.vocab,
        " ids, expected 1 .. ", most);
  const token_file::Contents file = token_file::contents_of(path, options.mapped);
  const token_file::Layout layout = token_file::layout_of(path.string(), file, options.type);
  const char* const ids = file.bytes() + layout.first_byte;
  with_integer_of(layout.type, [&](auto u) {
    const auto* numbers = static_cast<const decltype(u)*>(static_cast<const void*>(ids));
    token_file::check_ids(path.string(), numbers, layout.count, options.vocab);
  });
  return {ids, layout.type, layout.count, file.memory};
}
// The ids of several files, one after another.
inline TokenSequence read_tokens(std::span<const std::filesystem::path> files,
                                 const TokenFileOptions& options) {
  TokenSequence all;
  for (const auto& path : files) all.append(read_tokens(path, options));
  return all;
}

// Ids as integers of a type, without a header, or with llm.c's.
enum class TokenHeader { none, llmc };

// Writes ids to a file, whole or not at all. Throws std::invalid_argument for an id that the type cannot
// hold, and for what llm.c's header cannot state: ids of one byte, and 2^31 or more ids (write several
// files); std::runtime_error for what write_file_atomically throws.
inline void write_tokens(const std::filesystem::path& path, TokenView tokens, TokenType type,
                         TokenHeader header = TokenHeader::llmc) {
  token_file::Header first{};
  if (header == TokenHeader::llmc) {
    const auto* format = std::find_if(std::begin(token_file::formats), std::end(token_file::formats),
                                      [&](const auto& f) { return f.type == type; });
    check(format != std::end(token_file::formats),
          "write_tokens: llm.c's header has no type of ids of one byte: use TokenType::u16");
    check(tokens.size() <= std::numeric_limits<std::int32_t>::max(), "write_tokens: ", tokens.size(),
          " ids for one file, but llm.c's header states at most 2147483647: write several files");
    first[0] = format->magic, first[1] = format->version, first[2] = static_cast<std::int32_t>(tokens.size());
  }
  write_file_atomically(path, [&](auto& out) {
    if (header == TokenHeader::llmc)
      out.write({static_cast<const char*>(static_cast<const void*>(first.data())), sizeof first});
    with_integer_of(type, [&](auto u) {
      using U = decltype(u);
      std::vector<U> numbers;
      for_each_token_piece(tokens, [&](Index begin, std::span<const int> ids) {
        numbers.resize(ids.size());
        for (std::size_t i = 0; i < ids.size(); ++i) {
          check(ids[i] >= 0 && static_cast<std::uint32_t>(ids[i]) <= std::numeric_limits<U>::max(),
                "write_tokens: token ", begin + static_cast<Index>(i), " has id ", ids[i], ", which ",
                sizeof(U), " bytes cannot hold: use a larger type");
          numbers[i] = static_cast<U>(ids[i]);
        }
        out.write(
            {static_cast<const char*>(static_cast<const void*>(numbers.data())), numbers.size() * sizeof(U)});
      });
    });
  });
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
