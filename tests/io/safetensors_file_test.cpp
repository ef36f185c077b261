#include <moegpt/io/safetensors_file.hpp>

#include "support.hpp"

using namespace moegpt;

namespace {

const std::string bytes = safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                            R"("b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}})",
                                            "01234567xyz");

}  // namespace

TEST_CASE("a file on disk and one in memory have the same header and bytes") {
  TemporaryFolder folder;
  put(folder / "m", bytes);
  for (const SafetensorsFile& file : {read_safetensors(folder / "m"), parse_safetensors(bytes, "m")}) {
    REQUIRE(file.header.tensors.size() == 2);
    CHECK(file.bytes(file.header.tensors.at("a")) == "01234567");
    CHECK(file.bytes(file.header.tensors.at("b")) == "xyz");
    char part[3];
    file.read(6, 3, part);
    CHECK(std::string(part, 3) == "67x");
    file.check_unchanged();
  }
}

TEST_CASE("copies read the file that was opened, also when another one takes its place") {
  TemporaryFolder folder;
  put(folder / "m", bytes);
  auto first = std::make_unique<SafetensorsFile>(read_safetensors(folder / "m"));
  const SafetensorsFile copy = *first;
  first.reset();
  put(folder / "n", "another");
  std::filesystem::rename(folder / "n", folder / "m");
  CHECK(copy.bytes(copy.header.tensors.at("b")) == "xyz");
}

TEST_CASE("a file that another program changes is noticed") {
  TemporaryFolder folder;
  put(folder / "m", bytes);
  const SafetensorsFile file = read_safetensors(folder / "m");
  put(folder / "m", bytes + "w");
  CHECK(has(error_of([&] { file.check_unchanged(); }), "was changed while it was read"));
}

TEST_CASE("a file that ends within its header is refused, with both numbers of bytes") {
  CHECK(has(error_of([&] { parse_safetensors("1234567", "m"); }), "has 7 bytes, expected at least 8"));
  CHECK(has(error_of([&] { parse_safetensors(bytes.substr(0, 20), "m"); }), "but only 12 follow"));
  CHECK(has(error_of([&] { parse_safetensors(std::string(8, '\x7f'), "m"); }), "expected at most"));
}
