#include <cstring>

#include "bad_input/bad_files.h"

namespace moe::testing {
namespace {

constexpr char kFile[] = "model.safetensors";

std::string with_length(std::string bytes, uint64_t length) {
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes;
}

}  // namespace

std::vector<BadFile> bad_safetensors_headers() {
  const std::string four(4, 'x'), eight(8, 'x');
  const auto entry = [](const std::string& fields) { return "{\"x\":" + fields + "}"; };
  const std::string good = entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})");
  std::string many_dimensions = "1";
  for (int i = 0; i < 64; ++i) many_dimensions += ",1";
  const auto file = [](const std::string& name, const std::string& header, const std::string& data,
                       std::vector<std::string> says) {
    return BadFile{name, kFile, safetensors_bytes(header, data), std::move(says)};
  };
  return {
      {"empty", kFile, "", {"at least 8 bytes", "0"}},
      {"seven_bytes", kFile, "1234567", {"at least 8 bytes", "7"}},
      {"length_over_limit",
       kFile,
       with_length(safetensors_bytes(good, four), 100'000'001),
       {"100000001", "over the limit of 100000000"}},
      {"length_beyond_file", kFile, with_length(safetensors_bytes(good, four), 5000), {"5000", "truncated"}},
      {"length_all_ones",
       kFile,
       with_length(safetensors_bytes(good, four), UINT64_MAX),
       {"18446744073709551615", "over the limit"}},
      {"length_zero", kFile, with_length(safetensors_bytes(good, four), 0), {"does not start with '{'"}},
      file("space_first", " {}", "", {"does not start with '{'"}),
      file("byte_order_mark", "\xEF\xBB\xBF{}", "", {"does not start with '{'"}),
      file("cut_json", "{\"x\":", "", {"not valid JSON at byte"}),
      file("list", "[]", "", {"does not start with '{'"}),
      file("two_objects", "{}{}", "", {"not valid JSON at byte 3"}),
      file("text_behind", "{} x", "", {"not valid JSON at byte 4"}),
      file("comment", "{/* */}", "", {"not valid JSON"}),
      file("trailing_comma", R"({"__metadata__":{},})", "", {"not valid JSON"}),
      file("nul_behind", std::string("{}\0hidden", 9), "", {"a NUL at byte 2"}),
      file("nul_inside", std::string("{\"\0\":1}", 7), "", {"a NUL at byte 2"}),
      file("invalid_utf8", "{\"\xFF\":1}", "", {"not valid JSON", "UTF-8"}),
      file("overlong_utf8", "{\"\xC0\xAF\":1}", "", {"not valid JSON", "UTF-8"}),
      file("lone_surrogate", R"({"\ud800":1})", "", {"not valid JSON", "surrogate"}),
      file("line_breaks", "{" + std::string(70'000, '\n') + "}", "", {"70000 line breaks"}),
      file("entry_list", "{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}", "", {"tensor 'a' is a list"}),
      file("entry_number", entry("3"), "", {"tensor 'x' is 3", "expected an object"}),
      file("entry_null", entry("null"), "", {"tensor 'x' is null"}),
      file("entry_nested", entry(R"({"dtype":{}})"), "", {"tensor 'x' has the unknown dtype an object"}),
      file(
          "name_twice",
          R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
          eight, {"tensor 'x' stands twice"}),
      file(
          "name_twice_escaped",
          R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\u0078":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
          eight, {"tensor 'x' stands twice"}),
      file("field_twice", entry(R"({"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})"), four,
           {"'dtype' stands twice", "tensor 'x'"}),
      file("no_dtype", entry(R"({"shape":[1],"data_offsets":[0,4]})"), four, {"tensor 'x' has no dtype"}),
      file("no_shape", entry(R"({"dtype":"F32","data_offsets":[0,4]})"), four, {"tensor 'x' has no shape"}),
      file("no_offsets", entry(R"({"dtype":"F32","shape":[1]})"), four, {"tensor 'x' has no data_offsets"}),
      file("extra_field", entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"zip":1})"), four,
           {"fields besides", "'zip'"}),
      file("unknown_dtype", entry(R"({"dtype":"F33","shape":[1],"data_offsets":[0,4]})"), four,
           {"tensor 'x'", "unknown dtype 'F33'"}),
      file("dtype_lower_case", entry(R"({"dtype":"f32","shape":[1],"data_offsets":[0,4]})"), four,
           {"unknown dtype 'f32'"}),
      file("dtype_number", entry(R"({"dtype":32,"shape":[1],"data_offsets":[0,4]})"), four, {"unknown dtype 32"}),
      file("dtype_null", entry(R"({"dtype":null,"shape":[1],"data_offsets":[0,4]})"), four, {"unknown dtype null"}),
      file("shape_negative", entry(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"), four,
           {"tensor 'x' has -1 in its shape"}),
      file("shape_fraction", entry(R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})"), four,
           {"has 1.0 in its shape"}),
      file("shape_exponent", entry(R"({"dtype":"F32","shape":[1e0],"data_offsets":[0,4]})"), four,
           {"has 1e0 in its shape"}),
      file("shape_text", entry(R"({"dtype":"F32","shape":"1","data_offsets":[0,4]})"), four,
           {"tensor 'x' has the shape '1'"}),
      file("shape_nested", entry(R"({"dtype":"F32","shape":[[1]],"data_offsets":[0,4]})"), four,
           {"has a list in its shape"}),
      file("shape_null", entry(R"({"dtype":"F32","shape":null,"data_offsets":[0,4]})"), four, {"has the shape null"}),
      file("shape_65_dimensions",
           entry("{\"dtype\":\"F32\",\"shape\":[" + many_dimensions + "],\"data_offsets\":[0,4]}"), four,
           {"more than 64 dimensions"}),
      file("shape_overflows",
           entry(R"({"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]})"), four,
           {"too large"}),
      file("shape_overflows_bits", entry(R"({"dtype":"F64","shape":[2305843009213693951],"data_offsets":[0,4]})"), four,
           {"too large"}),
      file("shape_wraps_to_fit", entry(R"({"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]})"), four,
           {"too large"}),
      file("shape_2_to_64", entry(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]})"), four,
           {"too large"}),
      file("half_a_byte", entry(R"({"dtype":"F4","shape":[1],"data_offsets":[0,1]})"), "x", {"whole bytes"}),
      file("size_and_shape_differ", entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"), four,
           {"tensor 'x' F32 [2] needs 8 bytes", "[0,4]"}),
      file("zero_size_with_bytes", entry(R"({"dtype":"F32","shape":[0],"data_offsets":[0,4]})"), four,
           {"needs 0 bytes", "[0,4]"}),
      file("scalar_of_eight", entry(R"({"dtype":"F32","shape":[],"data_offsets":[0,8]})"), eight,
           {"needs 4 bytes", "[0,8]"}),
      file("offsets_backwards", entry(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"), four, {"[4,0]"}),
      file("one_offset", entry(R"({"dtype":"F32","shape":[1],"data_offsets":[4]})"), four,
           {"1 data_offsets", "[begin, end]"}),
      file("three_offsets", entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,4]})"), four,
           {"more than two data_offsets"}),
      file("offset_negative", entry(R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})"), four,
           {"has -4 in its data_offsets"}),
      file("offset_text", entry(R"({"dtype":"F32","shape":[1],"data_offsets":["0",4]})"), four,
           {"has '0' in its data_offsets"}),
      file("offsets_number", entry(R"({"dtype":"F32","shape":[1],"data_offsets":4})"), four,
           {"has the data_offsets 4"}),
      file(
          "overlap",
          R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
          eight, {"tensor 'y' overlaps"}),
      file(
          "same_place",
          R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
          four, {"tensor 'y' overlaps"}),
      file(
          "hole",
          R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
          eight + four, {"a hole of 4 bytes before tensor 'y'"}),
      file("hole_at_start", entry(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), eight, {"a hole of 4 bytes"}),
      file("hole_at_end", good, eight, {"4 bytes behind the last tensor"}),
      file("data_truncated", good, "xyz", {"need 4 bytes", "holds 3", "truncated"}),
      file("no_tensors_but_data", "{}", four, {"4 bytes behind"}),
      file("metadata_list", R"({"__metadata__":[]})", "", {"__metadata__ is a list"}),
      file("metadata_text", R"({"__metadata__":"pt"})", "", {"__metadata__ is 'pt'"}),
      file("metadata_number", R"({"__metadata__":{"a":1}})", "", {"__metadata__.'a' is 1", "only strings"}),
      file("metadata_nested", R"({"__metadata__":{"a":{}}})", "", {"__metadata__.'a' is an object", "only strings"}),
      file("metadata_twice", R"({"__metadata__":{},"__metadata__":{}})", "", {"__metadata__", "stands twice"}),
      file("metadata_key_twice", R"({"__metadata__":{"a":"1","a":"2"}})", "", {"'a' stands twice in __metadata__"}),
      file("long_name", "{\"" + std::string(100'000, 'n') + "\":1}", "", {"tensor 'nnn", "...' is 1"}),
      file("control_characters_in_name", "{\"a\\nb\":1}", "", {"tensor 'a\\nb' is 1"}),
  };
}

}  // namespace moe::testing
