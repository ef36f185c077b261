// The rules S1-S13 by which a file is rejected, each with bytes written by hand from the format's
// description.
#include <moegpt/io/safetensors.hpp>

#include "support.hpp"

using namespace moegpt;

namespace {

std::string refusal(const std::string& bytes) {
  return error_of([&] { parse_safetensors(bytes, "m.safetensors"); });
}

// Checks that the file is rejected and that the message names it and all of these.
void refused(const std::string& bytes, std::initializer_list<std::string_view> parts) {
  const std::string text = refusal(bytes);
  INFO(text);
  CHECK(has(text, "m.safetensors: "));
  for (const std::string_view part : parts) {
    INFO(part);
    CHECK(has(text, part));
  }
}

void refused_header(const std::string& header, std::initializer_list<std::string_view> parts) {
  INFO(header.substr(0, 200));
  refused(safetensors_bytes(header), parts);
}

// A header with one tensor 'a' of these fields, and 8 bytes of data.
std::string tensor_a(const std::string& fields) {
  return safetensors_bytes("{\"a\":{" + fields + "}}", "12345678");
}

const std::string good_a = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";

}  // namespace

TEST_CASE("a header laid out as Python's writer does is read") {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F64","shape":[1,1],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}   )";
  const SafetensorsFile file = parse_safetensors(safetensors_bytes(header, "0123456789abcdef"), "m");
  CHECK(file.header.metadata == Metadata{{"format", "pt"}});
  REQUIRE(file.header.tensors.size() == 2);
  const TensorInfo& a = file.header.tensors.at("a");
  CHECK(a.dtype == DType::f32);
  CHECK(a.shape == std::vector<Index>{2});
  CHECK(file.bytes(a) == "89abcdef");
  CHECK(file.bytes(file.header.tensors.at("b")) == "01234567");
}

TEST_CASE("S1: a file of fewer than 8 bytes is rejected") {
  for (std::size_t size = 0; size < 8; ++size)
    refused(std::string(size, 'x'), {"has " + std::to_string(size) + " bytes", "at least 8"});
}

TEST_CASE("S2: a header of more than 100,000,000 bytes is rejected") {
  for (const std::uint64_t bytes : {std::uint64_t{100'000'001}, std::uint64_t{1} << 63, ~std::uint64_t{0}})
    refused(eight_bytes(bytes) + "{}", {"header of " + std::to_string(bytes), "at most 100000000"});
}

TEST_CASE("S3: a header that goes past the end of the file is rejected") {
  refused(eight_bytes(3) + "{}", {"header of 3 bytes", "only 2 follow"});
  refused(eight_bytes(100'000'000) + "{}", {"only 2 follow"});
  refused(eight_bytes(2), {"only 0 follow"});
}

TEST_CASE("S4: a header that is not UTF-8 is rejected") {
  for (const std::string bad : {"\xc0\xaf", "\xed\xa0\x80", "\xff", "\xc3", "\xf4\x90\x80\x80"}) {
    refused_header("{\"" + bad + "\":{}}", {"not valid JSON at its byte", "UTF-8"});
    refused_header("{\"__metadata__\":{\"k\":\"" + bad + "\"}}", {"not valid JSON at its byte", "UTF-8"});
    refused_header("{" + bad + "}", {"not valid JSON at its byte"});
  }
  refused_header("\xef\xbb\xbf{}", {"does not begin with '{'"});
  refused_header(R"({"\ud800":{}})", {"not valid JSON"});
}

TEST_CASE("S5: a header that is not a JSON object from its first byte on is rejected") {
  for (const std::string bad : {"", " {}", "[]", "null", "\n{}", "x"})
    refused_header(bad, {"does not begin with '{'"});
  for (const std::string bad : {"{", "{\"a\"", "{}}", "{} x", "{'a':1}", "{\"a\":}", "{,}", "{/**/}"})
    refused_header(bad, {"not valid JSON at its byte"});
  refused_header(std::string("{}\0", 3), {"zero byte at its byte 2"});
  refused_header(std::string("{}\0garbage", 10), {"zero byte at its byte 2"});
  refused(tensor_a("\"dtype\":\"F32\",\"shape\":[2],"), {"not valid JSON"});
}

TEST_CASE("S5: nesting of any depth is rejected where it leaves the grammar") {
  const std::string deep(100'000, '[');
  refused_header(deep, {"does not begin with '{'"});
  refused_header("{\"a\":" + deep, {"tensor 'a'", "an array", "expected an object"});
  refused_header("{\"a\":{\"shape\":" + deep, {"tensor 'a': 'shape'", "an array", "expected a whole number"});
  refused_header("{\"__metadata__\":{\"k\":" + deep, {"__metadata__: 'k'", "an array", "expected a text"});
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  refused_header(objects, {"tensor 'a': 'a' is unknown"});
}

TEST_CASE("S6: a name that occurs twice is rejected") {
  const std::string a = "\"a\":{" + good_a + "}";
  refused(safetensors_bytes("{" + a + "," + a + "}", "12345678"), {"tensor 'a' occurs twice"});
  refused(safetensors_bytes("{" + a + ",\"\\u0061\":{" + good_a + "}}", "12345678"),
          {"tensor 'a' occurs twice"});
  refused(tensor_a(good_a + ",\"dtype\":\"F32\""), {"tensor 'a': 'dtype' occurs twice"});
  refused(tensor_a(good_a + ",\"shape\":[2]"), {"tensor 'a': 'shape' occurs twice"});
  refused(tensor_a(good_a + ",\"data_offsets\":[0,8]"), {"tensor 'a': 'data_offsets' occurs twice"});
  refused_header(R"({"__metadata__":{"k":"1","k":"2"}})", {"__metadata__: 'k' occurs twice"});
  refused_header(R"({"__metadata__":{},"__metadata__":{}})", {"__metadata__ occurs twice"});
}

TEST_CASE("a tensor with a field missing, unknown or of the wrong kind is rejected") {
  refused(tensor_a(R"("shape":[2],"data_offsets":[0,8])"), {"tensor 'a' has no dtype"});
  refused(tensor_a(R"("dtype":"F32","data_offsets":[0,8])"), {"tensor 'a' has no shape"});
  refused(tensor_a(R"("dtype":"F32","shape":[2])"), {"tensor 'a' has no data_offsets"});
  refused(tensor_a(good_a + ",\"color\":1"), {"tensor 'a': 'color' is unknown"});
  refused(tensor_a(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"),
          {"'dtype'", "number 32", "expected a text"});
  refused(tensor_a(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), {"'shape'", "number 2", "an array"});
  refused(tensor_a(R"("dtype":"F32","shape":{},"data_offsets":[0,8])"), {"'shape'", "an object", "an array"});
  refused(tensor_a(R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])"),
          {"'shape'", "text '2'", "whole number"});
  refused(tensor_a(R"("dtype":"F32","shape":[null],"data_offsets":[0,8])"),
          {"'shape'", "null", "whole number"});
  refused(tensor_a(R"("dtype":"F32","shape":[2],"data_offsets":[8])"), {"'data_offsets'", "1 numbers"});
  refused(tensor_a(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"), {"'data_offsets'", "more than 2"});
  refused_header(R"({"a":"x"})", {"tensor 'a'", "text 'x'", "expected an object"});
  refused_header(R"({"a":true})", {"tensor 'a'", "a boolean", "expected an object"});
}

TEST_CASE("S7: every number type of the format is known and no other") {
  for (const DTypeFacts& dtype : dtype_facts) {
    // Eight numbers are as many bytes as one has bits.
    const std::string header = "{\"a\":{\"dtype\":\"" + std::string(dtype.name) +
                               "\",\"shape\":[8],\"data_offsets\":[0," + std::to_string(dtype.bits) + "]}}";
    INFO(header);
    const std::string bytes =
        safetensors_bytes(header, std::string(static_cast<std::size_t>(dtype.bits), 'x'));
    CHECK(refusal(bytes) == "");
  }
  for (const std::string bad : {"F31", "f32", "", "FLOAT"})
    refused(tensor_a("\"dtype\":\"" + bad + "\",\"shape\":[2],\"data_offsets\":[0,8]"),
            {"tensor 'a': 'dtype'", "'" + bad + "'", "expected one of BOOL", "F32"});
}

TEST_CASE("S8: a shape whose size overflows or ends inside a byte is rejected") {
  auto shape = [](const std::string& dtype, const std::string& extents) {
    return tensor_a("\"dtype\":\"" + dtype + "\",\"shape\":[" + extents + "],\"data_offsets\":[0,8]");
  };
  refused(shape("F32", "4294967296,4294967296"), {"tensor 'a'", "[4294967296, 4294967296] overflows"});
  refused(shape("F64", "281474976710655,1024"), {"tensor 'a'", "overflows"});
  refused(shape("F32", "281474976710655,281474976710655,0"), {"tensor 'a'", "overflows"});
  refused(shape("F32", "9223372036854775808,2"), {"tensor 'a': 'shape'", "9223372036854775808", "2^48"});
  refused(shape("F4", "3"), {"tensor 'a'", "[3] ends inside a byte"});
  refused(shape("F6_E2M3", "2"), {"tensor 'a'", "ends inside a byte"});
}

TEST_CASE("S9: offsets that do not match the shape are rejected") {
  for (const std::string bad : {"0,7", "0,9", "1,8", "8,0", "0,0"})
    refused(tensor_a("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[" + bad + "]"),
            {"tensor 'a'", "expected 8 bytes for F32 [2]"});
}

TEST_CASE("S10: tensors that leave a hole, overlap or end elsewhere than the file are rejected") {
  auto pair = [](const std::string& a, const std::string& b, const std::string& data) {
    auto tensor = [](const std::string& offsets) {
      return R"({"dtype":"U8","shape":[4],"data_offsets":[)" + offsets + "]}";
    };
    return safetensors_bytes("{\"a\":" + tensor(a) + ",\"b\":" + tensor(b) + "}", data);
  };
  CHECK(refusal(pair("4,8", "0,4", "12345678")) == "");
  refused(pair("0,4", "5,9", "123456789"), {"tensor 'b' begins at byte 5", "expected 4", "hole"});
  refused(pair("1,5", "5,9", "123456789"), {"tensor 'a' begins at byte 1", "expected 0", "hole"});
  refused(pair("0,4", "3,7", "1234567"), {"tensor 'b' begins at byte 3", "expected 4", "overlaps"});
  refused(pair("0,4", "0,4", "1234"), {"begins at byte 0", "expected 4", "overlaps"});
  refused(pair("0,4", "4,8", "123456789"), {"end at byte 8", "has 9 bytes"});
  refused(pair("0,4", "4,8", "1234567"), {"end at byte 8", "has 7 bytes"});
  refused(safetensors_bytes("{}", "x"), {"end at byte 0", "has 1 bytes"});
}

TEST_CASE("S11: metadata that is not text is rejected") {
  for (const std::string bad : {"1", "-1", "1.5", "null", "true", "{}", "[]"})
    refused_header("{\"__metadata__\":{\"k\":" + bad + "}}", {"__metadata__: 'k'", "expected a text"});
  refused_header(R"({"__metadata__":"x"})", {"__metadata__", "text 'x'", "expected an object"});
}

TEST_CASE("S12: tensors without extent, tensors of rank 0 and files without tensors are read") {
  const std::string header = R"({"empty":{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]},)"
                             R"("also":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},)"
                             R"("one":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})";
  const SafetensorsFile file = parse_safetensors(safetensors_bytes(header, "1234"), "m");
  CHECK(file.header.tensors.at("one").shape.empty());
  CHECK(file.header.tensors.at("empty").shape == std::vector<Index>{3, 0});
  CHECK(refusal(safetensors_bytes("{}")) == "");
  CHECK(refusal(safetensors_bytes(R"({"__metadata__":{"k":"v"}})")) == "");
}

TEST_CASE("S13: only whole numbers below 2^48 written in digits are read") {
  auto extent = [](const std::string& number) {
    return tensor_a("\"dtype\":\"F32\",\"shape\":[" + number + "],\"data_offsets\":[0,8]");
  };
  for (const std::string bad : {"2.0", "2e0", "0.2e1", "-0", "-2", "-0.0", "18446744073709551616"})
    refused(extent(bad), {"tensor 'a': 'shape'", "expected a whole number"});
  for (const std::string bad : {"281474976710656", "18446744073709551615"})
    refused(extent(bad), {"tensor 'a': 'shape' is " + bad, "at most 2^48 - 1"});
  for (const std::string bad : {"02", "+2", "0x2", ".2", "1e999"}) refused(extent(bad), {"not valid JSON"});
  refused(tensor_a(R"("dtype":"F32","shape":[2],"data_offsets":[-0,8])"), {"'data_offsets'", "minus sign"});
}

TEST_CASE("a file beyond the limits is rejected before memory is allocated for it") {
  std::string many = "{";
  for (std::size_t i = 0; i <= SafetensorsLimits::tensors; ++i)
    many += "\"" + std::to_string(i) + "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},";
  many.back() = '}';
  refused_header(many, {"more than 100000 tensors"});
  refused_header("{\"" + std::string(1025, 'n') + "\":{}}", {"name of 1025 bytes", "at most 1024"});
  refused(tensor_a(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])"),
          {"'shape'", "more than 8"});
  refused_header("{\"__metadata__\":{\"k\":\"" + std::string(16'000'000, 'x') + "\"}}",
                 {"more than 16000000 bytes"});
}

TEST_CASE("messages stay short and printable whatever the file holds") {
  for (const std::string& bytes :
       {safetensors_bytes("{\"" + std::string(90'000, 'x')),
        safetensors_bytes("{\"a\":{\"dtype\":\"\\u001b[31m\"}}"), safetensors_bytes("{\"\\u0000\\n\":1}")}) {
    const std::string text = refusal(bytes);
    CHECK(!text.empty());
    CHECK(text.size() < 500);
    for (const char c : text) CHECK((static_cast<unsigned char>(c) >= 0x20));
  }
}
