#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "common/error.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

TEST(SafetensorsTest, WhatIsWrittenIsReadBack) {
  const testing::TempDir folder;
  at::manual_seed(1);
  const std::vector<std::pair<std::string, at::Tensor>> tensors{
      {"matrix", at::randn({3, 5})}, {"half", at::randn({7}).to(at::kBFloat16)}, {"double", at::randn({2, 2}, at::kDouble)},
      {"scalar", at::randn({})},     {"none", at::empty({0, 4})},               {"ids", at::arange(6, at::kInt)}};
  std::vector<SafetensorsWriter::Spec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  SafetensorsWriter writer(folder / "a.safetensors", specs, {{"by", "test"}});
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.finish();
  const SafetensorsFile file(folder / "a.safetensors");
  EXPECT_EQ(file.header().metadata.at("format"), "pt");
  EXPECT_EQ(file.header().metadata.at("by"), "test");
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(file.tensor(name).scalar_type(), tensor.scalar_type());
    EXPECT_TRUE(file.tensor(name).equal(tensor)) << name;
  }
}

TEST(SafetensorsTest, AnUnfinishedWriterLeavesNothing) {
  const testing::TempDir folder;
  {
    SafetensorsWriter writer(folder / "a.safetensors", {{"x", at::kFloat, {2}}});
    writer.write("x", at::zeros({2}));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

struct Damage {
  const char* name;
  std::string bytes;
  const char* says;
};

std::vector<Damage> damages() {
  const std::string four(4, 'x'), eight(8, 'x');
  const auto one = [](const std::string& entry) { return "{\"x\":" + entry + "}"; };
  const std::string good = one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})");
  std::string too_long = file_of(good, four);
  const uint64_t beyond = 100'000'001;
  std::memcpy(too_long.data(), &beyond, 8);
  std::string past_end = file_of(good, four);
  const uint64_t more = 5000;
  std::memcpy(past_end.data(), &more, 8);
  return {
      {"empty", "", "at least 8 bytes"},
      {"seven_bytes", "1234567", "at least 8 bytes"},
      {"header_over_limit", too_long, "over the limit"},
      {"header_beyond_file", past_end, "truncated"},
      {"no_brace", file_of(" {}", ""), "does not start with '{'"},
      {"not_json", file_of("{\"x\":", ""), "not valid JSON"},
      {"invalid_utf8", file_of("{\"\xFF\":1}", ""), "not valid JSON"},
      {"deep", file_of("{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}", ""), "'a' is a list"},
      {"duplicate", file_of(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight), "stands twice"},
      {"duplicate_inside", file_of(one(R"({"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})"), four), "stands twice"},
      {"entry_not_object", file_of(one("3"), ""), "'x' is 3; expected an object"},
      {"no_shape", file_of(one(R"({"dtype":"F32","data_offsets":[0,4]})"), four), "has no shape"},
      {"no_offsets", file_of(one(R"({"dtype":"F32","shape":[1]})"), four), "has no data_offsets"},
      {"extra_field", file_of(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"z":1})"), four), "fields besides"},
      {"unknown_dtype", file_of(one(R"({"dtype":"F33","shape":[1],"data_offsets":[0,4]})"), four), "unknown dtype"},
      {"dtype_number", file_of(one(R"({"dtype":32,"shape":[1],"data_offsets":[0,4]})"), four), "unknown dtype"},
      {"negative_shape", file_of(one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"), four), "has -1 in its shape"},
      {"fraction_shape", file_of(one(R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})"), four), "has 1.0 in its shape"},
      {"shape_text", file_of(one(R"({"dtype":"F32","shape":"1","data_offsets":[0,4]})"), four), "has the shape"},
      {"overflow", file_of(one(R"({"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]})"), four), "too large"},
      {"huge_extent", file_of(one(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]})"), four), "too large"},
      {"bits", file_of(one(R"({"dtype":"F4","shape":[1],"data_offsets":[0,1]})"), "x"), "whole bytes"},
      {"size_mismatch", file_of(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"), four), "needs 8 bytes"},
      {"backwards", file_of(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"), four), "needs 4 bytes"},
      {"one_offset", file_of(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4]})"), four), "expected [begin, end]"},
      {"negative_offset", file_of(one(R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})"), four), "expected [begin, end]"},
      {"overlap", file_of(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})", eight), "overlaps"},
      {"same_place", file_of(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", four), "overlaps"},
      {"hole", file_of(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})", eight + four), "hole"},
      {"hole_at_start", file_of(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), eight), "hole"},
      {"truncated_data", file_of(good, "xyz"), "truncated"},
      {"trailing_data", file_of(good, eight), "behind the last"},
      {"metadata_list", file_of(R"({"__metadata__":[]})", ""), "__metadata__"},
      {"metadata_number", file_of(R"({"__metadata__":{"a":1}})", ""), "only strings"},
  };
}

TEST(SafetensorsTest, EveryDamageHasItsOwnMessage) {
  int refused = 0;
  for (const Damage& damage : damages()) {
    try {
      parse_safetensors_header(std::as_bytes(std::span(damage.bytes.data(), damage.bytes.size())), damage.bytes.size(), "some/file.safetensors");
      ADD_FAILURE() << damage.name << " was accepted";
    } catch (const Corruption& error) {
      ++refused;
      EXPECT_THAT(error.what(), HasSubstr("some/file.safetensors")) << damage.name;
      EXPECT_THAT(error.what(), HasSubstr(damage.says)) << damage.name;
    }
  }
  std::cout << refused << " damaged headers refused\n";
}

TEST(SafetensorsTest, SpacesBehindTheHeaderAndMisalignedTensorsAreLegal) {
  const testing::TempDir folder;
  const std::string header = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}   )";
  const float value = 2.5F;
  std::string data = "z" + std::string(4, '\0');
  std::memcpy(data.data() + 1, &value, 4);
  write_file_atomically(folder / "a.safetensors", file_of(header, data));
  EXPECT_EQ(SafetensorsFile(folder / "a.safetensors").tensor("x").item<float>(), 2.5F);
}

}  // namespace
}  // namespace moe
