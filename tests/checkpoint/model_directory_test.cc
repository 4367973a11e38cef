#include "checkpoint/model_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "checkpoint/model_writer.h"
#include "common/error.h"
#include "common/file_io.h"
#include "testing/run_ranks.h"
#include "testing/temp_dir.h"
#include "testing/tiny_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

/// Writes a tiny mixture over `ranks` ranks.
void write_tiny(const fs::path& path, int ranks, uint64_t max_shard_bytes = ModelDirectoryWriter::kMaxShardBytes) {
  testing::run_ranks(ranks, [&](Communicator& world) {
    const int64_t count = 4 / ranks;
    Decoder decoder(testing::tiny_moe_config(4, 2, 16), at::kFloat, {world.rank() * count, count});
    testing::fill_random(decoder, 1);
    write_model(path, "/nowhere", decoder, decoder.config(), at::kFloat, world, /*writes_experts=*/true,
                /*chat_template=*/"", max_shard_bytes);
  });
}

/// Rewrites the single weight file with changed tensors.
void rewrite(const fs::path& model, const std::function<void(std::map<std::string, at::Tensor>&)>& change) {
  std::map<std::string, at::Tensor> tensors;
  {
    const SafetensorsFile file(model / "model.safetensors");
    for (const SafetensorsEntry& entry : file.header().entries) tensors[entry.name] = file.tensor(entry.name).clone();
  }
  change(tensors);
  std::vector<SafetensorsWriter::Spec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  SafetensorsWriter writer(model / "model.safetensors", specs);
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.finish();
}

void expect_refused(const fs::path& model, const std::vector<std::string>& words) {
  try {
    load_decoder(ModelDirectory(model), at::kFloat, {0, 4});
    ADD_FAILURE() << "accepted; expected " << words.front();
  } catch (const InvalidArgument& error) {
    for (const std::string& word : words) EXPECT_THAT(error.what(), HasSubstr(word));
  }
}

// Readers that load the stored type go by it: of tensors of several types, no value is rounded.
TEST(ModelDirectoryTest, TorchDtypeIsTheTypeThatHoldsAllThatIsStored) {
  const testing::TempDir folder;
  const auto named = [&](const std::string& name, const std::vector<at::ScalarType>& types) {
    std::vector<SafetensorsWriter::Spec> specs;
    for (const at::ScalarType type : types) specs.push_back({concat("t", specs.size()), type, {2}});
    ModelDirectoryWriter writer(folder / name, "/nowhere", specs);
    for (const SafetensorsWriter::Spec& spec : specs) writer.write(spec.name, at::ones({2}, spec.dtype));
    writer.finish(nlohmann::json{{"torch_dtype", "float64"}});
    return nlohmann::json::parse(read_file(folder / name / "config.json"))["torch_dtype"].get<std::string>();
  };
  EXPECT_EQ(named("alike", {at::kBFloat16, at::kBFloat16}), "bfloat16");
  EXPECT_EQ(named("wider", {at::kBFloat16, at::kFloat, at::kBFloat16}), "float32");
  EXPECT_EQ(named("neither", {at::kBFloat16, at::kHalf}), "float32");
}

TEST(ModelDirectoryTest, ShardsOfSeveralRanksHoldTheSameModelAsOneFile) {
  const testing::TempDir folder;
  write_tiny(folder / "one", 1);
  write_tiny(folder / "two", 2);
  EXPECT_TRUE(fs::exists(folder / "one/model.safetensors"));
  EXPECT_TRUE(fs::exists(folder / "two/model.safetensors.index.json"));
  const ModelDirectory one(folder / "one"), two(folder / "two");
  for (const TensorSpec& spec : logical_tensor_specs(one.config()))
    EXPECT_TRUE(one.tensor(spec.name).equal(two.tensor(spec.name))) << spec.name;
  EXPECT_THROW(write_tiny(folder / "one", 1), InvalidArgument) << "nothing may be overwritten";
}

// Digests are taken while the shards are written, on the rank that writes them.
TEST(ModelDirectoryTest, TheManifestHasTheDigestOfEveryRanksShard) {
  const testing::TempDir folder;
  write_tiny(folder / "m", 4);
  const nlohmann::json files = nlohmann::json::parse(read_file(folder / "m/MANIFEST.json"))["files"];
  int shards = 0;
  for (const auto& [name, entry] : files.items()) {
    shards += name.find(".safetensors") != std::string::npos && name.find(".json") == std::string::npos;
    EXPECT_EQ(entry["xxh3_128"], xxh3_hex_of_file(folder / "m" / name)) << name;
    EXPECT_EQ(entry["bytes"], fs::file_size(folder / "m" / name)) << name;
  }
  EXPECT_EQ(shards, 4);
}

TEST(ModelDirectoryTest, EachRankCutsItsTensorsIntoShards) {
  const testing::TempDir folder;
  constexpr uint64_t kMost = 9000;
  write_tiny(folder / "one", 1);
  write_tiny(folder / "m", 2, kMost);
  const nlohmann::json files = nlohmann::json::parse(read_file(folder / "m/MANIFEST.json"))["files"];
  size_t shards = 0;
  for (const auto& entry : fs::directory_iterator(folder / "m")) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile shard(entry.path());
    EXPECT_TRUE(shard.header().entries.size() == 1 || shard.header().entries.back().end <= kMost) << entry.path();
    EXPECT_EQ(files[entry.path().filename().string()]["xxh3_128"], xxh3_hex_of_file(entry.path()));
    ++shards;
  }
  EXPECT_GT(shards, 6u);
  EXPECT_TRUE(fs::exists(
      folder / concat("m/model-00001-of-", std::string(shards < 10 ? "0000" : "000"), shards, ".safetensors")));
  const ModelDirectory one(folder / "one"), cut(folder / "m");
  for (const TensorSpec& spec : logical_tensor_specs(one.config()))
    EXPECT_TRUE(one.tensor(spec.name).equal(cut.tensor(spec.name))) << spec.name;
}

TEST(ModelDirectoryTest, EveryProblemOfTheTensorsIsListedAtOnce) {
  const testing::TempDir folder;
  write_tiny(folder / "m", 1);
  rewrite(folder / "m", [](std::map<std::string, at::Tensor>& tensors) {
    tensors.erase("model.norm.weight");
    tensors["model.layers.0.mlp.bias"] = at::zeros({3});
    tensors["lm_head.weight"] = at::zeros({3, 3});
    tensors["model.layers.0.input_layernorm.weight"] = tensors["model.layers.0.input_layernorm.weight"].to(at::kInt);
  });
  expect_refused(folder / "m", {"missing: model.norm.weight", "unexpected: model.layers.0.mlp.bias",
                                "lm_head.weight is [3,3], expected [61,32]", "I32"});
}

TEST(ModelDirectoryTest, ANonFiniteWeightIsNamed) {
  const testing::TempDir folder;
  write_tiny(folder / "m", 1);
  rewrite(folder / "m",
          [](auto& tensors) { tensors["model.layers.1.mlp.experts.2.up_proj.weight"][3][4] = std::nanf(""); });
  expect_refused(folder / "m", {"model.safetensors", "model.layers.1.mlp.experts.2.up_proj.weight", "holds 1 values"});
}

TEST(ModelDirectoryTest, BrokenIndexesAreRefused) {
  const testing::TempDir folder;
  write_tiny(folder / "m", 2);
  const fs::path index = folder / "m/model.safetensors.index.json";
  const nlohmann::json good = nlohmann::json::parse(read_file(index));
  const auto with = [&](const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json changed = good;
    change(changed);
    write_file_atomically(index, changed.dump());
  };
  with([](auto& json) { json["weight_map"]["lm_head.weight"] = "model-00009-of-00009.safetensors"; });
  expect_refused(folder / "m", {"model-00009-of-00009.safetensors", "not in the folder"});
  with([](auto& json) { json["weight_map"].erase("lm_head.weight"); });
  expect_refused(folder / "m",
                 {"missing: lm_head.weight (it is in a shard, but ", "model.safetensors.index.json does not name it"});
  with([](auto& json) { json["weight_map"]["lm_head.weight"] = "../secret"; });
  expect_refused(folder / "m", {"not a plain file name"});
  with([](auto& json) { json.erase("weight_map"); });
  expect_refused(folder / "m", {"weight_map"});
  write_file_atomically(index, "{");
  expect_refused(folder / "m", {"not valid JSON"});
}

TEST(ModelDirectoryTest, PicklesAreRefusedWithAdvice) {
  const testing::TempDir folder;
  write_tiny(folder / "m", 1);
  fs::remove(folder / "m/model.safetensors");
  expect_refused(folder / "m", {"neither model.safetensors nor"});
  std::ofstream(folder / "m/pytorch_model.bin") << "x";
  expect_refused(folder / "m", {"pickle", "safetensors"});
}

}  // namespace
}  // namespace moe
