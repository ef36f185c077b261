#pragma once
// Files of passage stores, in safetensors: "ids" [tokens] I32, "offsets" [passages + 1] I64, "sources"
// [passages] I32 and "vectors" [passages, dim] F32. Metadata "moegpt_passages": the version of this layout.
#include <moegpt/io/safetensors.hpp>
#include <moegpt/retrieval/passage_store.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace passage_file {

inline constexpr const char* version_key = "moegpt_passages";
inline constexpr const char* version = "1";

template <class Number>
std::vector<Number> numbers(const SafetensorsFile& file, const char* name, DType dtype,
                            std::size_t dimensions) {
  const auto found = file.header.tensors.find(name);
  if (found == file.header.tensors.end())
    reject_file(file.name, "has no tensor ", name, ": it is no store of passages");
  const TensorInfo& tensor = found->second;
  if (tensor.dtype != dtype || tensor.shape.size() != dimensions)
    reject_file(file.name, "tensor ", name, " is ", facts(tensor.dtype).name, " ", shown(tensor.shape),
                ", expected ", facts(dtype).name, " with ", dimensions, " dimensions");
  std::vector<Number> all(static_cast<std::size_t>((tensor.end - tensor.begin) / Index{sizeof(Number)}));
  if (!all.empty()) file.read(tensor.begin, tensor.end - tensor.begin, reinterpret_cast<char*>(all.data()));
  return all;
}

}  // namespace passage_file

// Atomically; see save_safetensors. std::invalid_argument for an empty store.
inline void save_passages(const std::filesystem::path& path, const PassageStore& store) {
  check(store.size() > 0, "save_passages: the store is empty, expected at least one passage");
  const std::vector<std::int64_t> offsets(store.offsets().begin(), store.offsets().end());
  static_assert(sizeof(int) == 4);
  save_safetensors(path,
                   {{"ids", DType::i32, {std::ssize(store.ids())}, store.ids().data()},
                    {"offsets", DType::i64, {std::ssize(offsets)}, offsets.data()},
                    {"sources", DType::i32, {store.size()}, store.sources().data()},
                    {"vectors", DType::f32, {store.size(), store.dim()}, store.vectors().data()}},
                   {{passage_file::version_key, passage_file::version}});
}

// vocab: every id must be below. Throws std::runtime_error for a file that is not a store of passages, is cut
// short, or whose offsets, ids or vectors are out of range.
inline PassageStore load_passages(const SafetensorsFile& file, int vocab) {
  using namespace passage_file;
  const auto found = file.header.metadata.find(version_key);
  if (found == file.header.metadata.end())
    reject_file(file.name, "has no metadata ", version_key, ": it is no store of passages");
  if (found->second != version)
    reject_file(file.name, "has version ", shown(found->second), " of stores of passages, expected ",
                version);
  if (file.header.tensors.size() != 4)
    reject_file(file.name, "has ", file.header.tensors.size(), " tensors, expected 4: a store of passages");
  const auto vectors = numbers<float>(file, "vectors", DType::f32, 2);
  const auto ids = numbers<int>(file, "ids", DType::i32, 1);
  const auto offsets = numbers<std::int64_t>(file, "offsets", DType::i64, 1);
  const auto sources = numbers<int>(file, "sources", DType::i32, 1);
  file.check_unchanged();
  const std::vector<Index>& shape = file.header.tensors.find("vectors")->second.shape;
  const Index size = shape[0], dim = shape[1];
  if (size < 1 || dim < 1 || std::ssize(sources) != size || std::ssize(offsets) != size + 1)
    reject_file(file.name, "has vectors ", shown(shape), ", ", sources.size(), " sources and ",
                offsets.size(), " offsets, expected one of each for every passage, and an end");
  if (offsets.front() != 0 || offsets.back() != std::ssize(ids))
    reject_file(file.name, "has offsets ", offsets.front(), " .. ", offsets.back(), ", expected 0 .. ",
                ids.size(), ", the number of ids");
  for (std::size_t n = 0; n < ids.size(); ++n)
    if (ids[n] < 0 || ids[n] >= vocab)
      reject_file(file.name, "id ", n, " is ", ids[n], ", expected 0 .. ", vocab - 1);
  PassageStore store(dim);
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    if (offsets[i] >= offsets[i + 1] || offsets[i + 1] > offsets.back())
      reject_file(file.name, "passage ", i, " is ids ", offsets[i], " .. ", offsets[i + 1] - 1,
                  ": offsets must rise");
    const auto begin = static_cast<std::size_t>(offsets[i]), width = static_cast<std::size_t>(dim);
    try {
      store.add(std::span(ids).subspan(begin, static_cast<std::size_t>(offsets[i + 1]) - begin),
                std::span(vectors).subspan(i * width, width), sources[i]);
    } catch (const std::invalid_argument& error) {
      reject_file(file.name, "passage ", i, ": ", error.what());
    }
  }
  return store;
}
inline PassageStore load_passages(const std::filesystem::path& path, int vocab) {
  return load_passages(read_safetensors(path), vocab);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
