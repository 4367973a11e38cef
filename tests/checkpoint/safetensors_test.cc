#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "common/error.h"
#include "testing/safetensors_bytes.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using testing::safetensors_bytes;
using ::testing::ThrowsMessage;

TEST(SafetensorsTest, WhatIsWrittenIsReadBack) {
  const testing::TempDir folder;
  at::manual_seed(1);
  const std::vector<std::pair<std::string, at::Tensor>> tensors{{"matrix", at::randn({3, 5})},
                                                                {"half", at::randn({7}).to(at::kBFloat16)},
                                                                {"double", at::randn({2, 2}, at::kDouble)},
                                                                {"scalar", at::randn({})},
                                                                {"none", at::empty({0, 4})},
                                                                {"ids", at::arange(6, at::kInt)}};
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

TEST(SafetensorsTest, TheDataBeginsAtAMultipleOfEight) {
  const testing::TempDir folder;
  for (const char* name : {"x", "xx", "xxx", "xxxxxxx"}) {
    SafetensorsWriter writer(folder / "a.safetensors", {{name, at::kFloat, {1}}});
    writer.write(name, at::ones({1}));
    writer.finish();
    EXPECT_EQ(SafetensorsFile(folder / "a.safetensors").header().data_offset % 8, 0U) << name;
  }
}

TEST(SafetensorsTest, TypesThatWeDoNotLoadAreReadAndRefusedByName) {
  const testing::TempDir folder;
  struct Type {
    const char* name;
    size_t bytes;  ///< of eight elements
  };
  for (const Type& type : {Type{"F8_E5M2", 8}, Type{"F8_E4M3", 8}, Type{"F8_E8M0", 8}, Type{"F8_E4M3FNUZ", 8},
                           Type{"F8_E5M2FNUZ", 8}, Type{"I8", 8}, Type{"U16", 16}, Type{"I16", 16}, Type{"U32", 32},
                           Type{"U64", 64}, Type{"C64", 64}, Type{"F4", 4}, Type{"F6_E2M3", 6}, Type{"F6_E3M2", 6}}) {
    const std::string header =
        concat(R"({"x":{"dtype":")", type.name, R"(","shape":[8],"data_offsets":[0,)", type.bytes, "]}}");
    write_file_atomically(folder / "a.safetensors", safetensors_bytes(header, std::string(type.bytes, 'x')));
    const SafetensorsFile file(folder / "a.safetensors");
    EXPECT_EQ(file.header().entries.at(0).dtype, type.name);
    EXPECT_THAT([&] { file.tensor("x"); },
                ThrowsMessage<InvalidArgument>(
                    HasSubstr(concat("a.safetensors: tensor 'x' has dtype ", type.name, ", which is not supported"))));
  }
}

TEST(SafetensorsTest, SpacesBehindTheHeaderAndMisalignedTensorsAreLegal) {
  const testing::TempDir folder;
  const std::string header =
      R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}   )";
  const float value = 2.5F;
  std::string data = "z" + std::string(4, '\0');
  std::memcpy(data.data() + 1, &value, 4);
  write_file_atomically(folder / "a.safetensors", safetensors_bytes(header, data));
  EXPECT_EQ(SafetensorsFile(folder / "a.safetensors").tensor("x").item<float>(), 2.5F);
}

}  // namespace
}  // namespace moe
