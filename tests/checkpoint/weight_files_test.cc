// What stands in directories that people have besides one clean file: which weights are read, and what is refused in
// words. That transformers reads the same is shown by tests/peer/checkpoint_peer_test.cc.
#include "checkpoint/weight_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/file_io.h"
#include "testing/message_of.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Tensors = std::map<std::string, at::Tensor>;

constexpr char kSingle[] = "model.safetensors", kIndex[] = "model.safetensors.index.json";
constexpr const char* kShards[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
constexpr char kEmbedding[] = "model.embed_tokens.weight", kHead[] = "lm_head.weight";

class WeightFilesTest : public ::testing::Test {
 protected:
  fs::path model() const { return folder_ / "m"; }

  static nlohmann::json config(bool is_tied) {
    return {{"model_type", "llama"},    {"hidden_size", 8}, {"intermediate_size", 6},        {"num_hidden_layers", 1},
            {"num_attention_heads", 2}, {"vocab_size", 11}, {"tie_word_embeddings", is_tied}};
  }

  /// Starts over: config.json alone. Returns the tensors that belong to it, values exact in bfloat16.
  Tensors begin(bool is_tied) {
    fs::remove_all(model());
    make_directories(model());
    write_file_atomically(model() / "config.json", config(is_tied).dump());
    Tensors tensors;
    int64_t next = 0;
    for (const TensorSpec& spec : logical_tensor_specs(parse_model_config(config(is_tied).dump(), "config"))) {
      at::Tensor values = at::empty(spec.shape);
      values.copy_((at::arange(next, next + values.numel()).remainder(127) - 60).view(spec.shape) / 64);
      next += 37;
      tensors[spec.name] = values;
    }
    return tensors;
  }

  static void save(const fs::path& path, const Tensors& tensors) {
    std::vector<SafetensorsWriter::Spec> specs;
    for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
    SafetensorsWriter writer(path, specs);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
    writer.finish();
  }

  /// Two shards, every other tensor in each, and the index after `change`.
  void save_shards(const Tensors& tensors, const std::function<void(Tensors (&)[2], nlohmann::json&)>& change) {
    Tensors parts[2];
    nlohmann::json map = nlohmann::json::object();
    for (const auto& [name, tensor] : tensors) {
      const size_t part = map.size() % 2;
      parts[part][name] = tensor;
      map[name] = kShards[part];
    }
    change(parts, map);
    for (size_t part : {0, 1}) save(model() / kShards[part], parts[part]);
    write_file_atomically(model() / kIndex, nlohmann::json{{"weight_map", map}}.dump());
  }

  void expect_loaded(const Tensors& tensors) const {
    const ModelDirectory directory(model());
    for (const auto& [name, tensor] : tensors) {
      EXPECT_TRUE(directory.tensor(name).to(at::kFloat).equal(tensor)) << name;
      EXPECT_NO_THROW(directory.release(name));
    }
    EXPECT_NO_THROW(load_decoder(directory, at::kFloat, {0, 0}));
  }

  std::string refusal() const {
    return testing::message_of([&] { load_decoder(ModelDirectory(model()), at::kFloat, {0, 0}); });
  }

  testing::TempDir folder_;
};

Tensors negated(const Tensors& tensors) {
  Tensors result;
  for (const auto& [name, tensor] : tensors) result[name] = -tensor;
  return result;
}

TEST_F(WeightFilesTest, TheSingleFileWinsOverAnOldIndexAndItsShards) {
  const Tensors tensors = begin(/*is_tied=*/false);
  save_shards(negated(tensors), [](Tensors(&)[2], nlohmann::json&) {});
  save(model() / kSingle, tensors);
  expect_loaded(tensors);
  // Nor does the index matter where its shards are gone.
  for (const char* shard : kShards) fs::remove(model() / shard);
  expect_loaded(tensors);
}

TEST_F(WeightFilesTest, AnIndexMayNameWhatNoShardHolds) {
  const Tensors tensors = begin(false);
  save_shards(tensors, [](Tensors(&)[2], nlohmann::json& map) {
    map["model.layers.0.self_attn.rotary_emb.inv_freq"] = kShards[0];
    map["no.such.tensor"] = kShards[1];
  });
  expect_loaded(tensors);
}

TEST_F(WeightFilesTest, AnIndexMayNameAnotherShard) {
  const Tensors tensors = begin(false);
  save_shards(tensors, [](Tensors(&)[2], nlohmann::json& map) {
    map[kHead] = map[kHead] == kShards[0] ? kShards[1] : kShards[0];
  });
  expect_loaded(tensors);
}

TEST_F(WeightFilesTest, AnIndexThatLeavesATensorOutIsRefused) {
  save_shards(begin(false), [](Tensors(&)[2], nlohmann::json& map) { map.erase(kHead); });
  EXPECT_THAT(refusal(), AllOf(HasSubstr("missing: lm_head.weight (it is in a shard, but "),
                               HasSubstr("index.json does not name it)")));
}

TEST_F(WeightFilesTest, ATensorMayStandInTwoShardsWithOneValue) {
  const Tensors tensors = begin(false);
  save_shards(tensors, [&](Tensors(&parts)[2], nlohmann::json&) {
    parts[0][kEmbedding] = parts[1][kEmbedding] = tensors.at(kEmbedding);
  });
  expect_loaded(tensors);
  save_shards(tensors, [&](Tensors(&parts)[2], nlohmann::json&) {
    parts[0][kEmbedding] = tensors.at(kEmbedding);
    parts[1][kEmbedding] = -tensors.at(kEmbedding);
  });
  EXPECT_THAT(refusal(), HasSubstr(concat("unexpected: ", kEmbedding, " of ", kShards[1], " (it differs from that of ",
                                          kShards[0], ")")));
}

TEST_F(WeightFilesTest, ATiedModelMayHaveItsHeadAlone) {
  const Tensors tensors = begin(/*is_tied=*/true);
  Tensors stored = tensors;
  stored[kHead] = stored[kEmbedding];
  stored.erase(kEmbedding);
  save(model() / kSingle, stored);
  expect_loaded(tensors);
  stored[kHead] = stored[kHead].slice(0, 0, 10).contiguous();
  save(model() / kSingle, stored);
  EXPECT_THAT(refusal(), HasSubstr("mismatched: lm_head.weight is [10,8], expected [11,8]"));
}

// transformers 4 and 5 make of two values, or of one that another type has rounded, two different models.
TEST_F(WeightFilesTest, ATiedHeadBesideItsEmbeddingMustHaveItsValuesInWhateverType) {
  const Tensors tensors = begin(true);
  Tensors stored = tensors;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    stored[kHead] = tensors.at(kEmbedding).to(type);
    save(model() / kSingle, stored);
    expect_loaded(tensors);
  }
  stored[kHead][10][7] += 0.001;
  save(model() / kSingle, stored);
  EXPECT_THAT(refusal(), HasSubstr("lm_head.weight (tie_word_embeddings is true and it differs from the embedding)"));
  stored[kHead] = (tensors.at(kEmbedding) + 1e-4).to(at::kBFloat16);
  stored[kEmbedding] = tensors.at(kEmbedding) + 1e-4;
  save(model() / kSingle, stored);
  EXPECT_THAT(refusal(), HasSubstr("it differs from the embedding"));
}

TEST_F(WeightFilesTest, NamesMayAllLackTheirPrefixIfNoHeadIsBesideThem) {
  const auto bare = [](const Tensors& tensors) {
    Tensors stored;
    for (const auto& [name, tensor] : tensors) stored[name.starts_with("model.") ? name.substr(6) : name] = tensor;
    return stored;
  };
  const Tensors tied = begin(true);
  save(model() / kSingle, bare(tied));
  expect_loaded(tied);
  // Only some of them: two models that read it differ.
  Tensors mixed = tied;
  mixed["norm.weight"] = mixed["model.norm.weight"];
  mixed.erase("model.norm.weight");
  save(model() / kSingle, mixed);
  EXPECT_THAT(refusal(), AllOf(HasSubstr("missing: model.norm.weight"), HasSubstr("unexpected: norm.weight")));
  const Tensors untied = begin(false);
  save(model() / kSingle, bare(untied));
  EXPECT_THAT(refusal(), AllOf(HasSubstr("missing: model.embed_tokens.weight"),
                               HasSubstr("names without `model.` are read only where")));
}

TEST_F(WeightFilesTest, APointerOfGitLfsIsCalledOne) {
  const Tensors tensors = begin(false);
  save(model() / kSingle, tensors);
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, '0') + "\nsize 13644312\n";
  write_file_atomically(model() / kSingle, pointer);
  EXPECT_THAT(refusal(), AllOf(HasSubstr((model() / kSingle).string()), HasSubstr("Git LFS pointer"),
                               HasSubstr("`git lfs pull` in " + model().string())));
  fs::remove(model() / kSingle);
  save_shards(tensors, [](Tensors(&)[2], nlohmann::json&) {});
  write_file_atomically(model() / kShards[1], pointer);
  EXPECT_THAT(refusal(), AllOf(HasSubstr(kShards[1]), HasSubstr("Git LFS pointer")));
}

TEST_F(WeightFilesTest, ALinkToNothingIsCalledOne) {
  const Tensors tensors = begin(false);
  fs::create_symlink("../blobs/0123", model() / kSingle);
  EXPECT_THAT(refusal(),
              AllOf(HasSubstr((model() / kSingle).string()), HasSubstr("a link to ../blobs/0123, which is not there")));
  fs::remove(model() / kSingle);
  save_shards(tensors, [](Tensors(&)[2], nlohmann::json&) {});
  fs::remove(model() / kShards[0]);
  fs::create_symlink("/nowhere/shard", model() / kShards[0]);
  EXPECT_THAT(refusal(), AllOf(HasSubstr(kShards[0]), HasSubstr("a link to /nowhere/shard, which is not there")));
  fs::remove(model() / "config.json");
  fs::create_symlink("gone.json", model() / "config.json");
  EXPECT_THAT(refusal(), HasSubstr("config.json: it is a link to gone.json"));
}

TEST_F(WeightFilesTest, ShardsWithoutAnIndexAreCalledThat) {
  save(model() / kShards[0], begin(false));
  EXPECT_THAT(refusal(),
              AllOf(HasSubstr(kShards[0]), HasSubstr("is a shard, and there is no model.safetensors.index.json")));
}

}  // namespace
}  // namespace moe
