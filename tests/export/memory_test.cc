// The promise of bounded memory, on a model that is much larger than the bound.
#include <gtest/gtest.h>

#include <iostream>
#include <string>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "export/exporter.h"
#include "testing/peak_memory.h"
#include "testing/temp_dir.h"

namespace moe {
namespace {

using testing::kMib;

constexpr int64_t kLayers = 12, kHidden = 1024, kWidth = 512, kExperts = 8, kVocab = 8192;

ModelConfig config() {
  const std::vector<int64_t> widths(kLayers, kWidth), shared(kLayers, 0);
  const nlohmann::json moe = {
      {"base_model_type", "llama"}, {"num_experts", kExperts}, {"top_k", 2},
      {"expert_widths", widths},    {"shared_widths", shared}, {"output_scale", std::vector<double>(kLayers, 3.3)}};
  const nlohmann::json json = {{"architectures", {"Dense2MoeForCausalLM"}},
                               {"model_type", "dense2moe"},
                               {"hidden_size", kHidden},
                               {"intermediate_size", kWidth * kExperts},
                               {"num_hidden_layers", kLayers},
                               {"num_attention_heads", 16},
                               {"num_key_value_heads", 16},
                               {"vocab_size", kVocab},
                               {"max_position_embeddings", 256},
                               {"rms_norm_eps", 1e-5},
                               {"tie_word_embeddings", false},
                               {"moe", moe}};
  return parse_model_config(json.dump(), "model");
}

/// Random bits with an exponent around 2^-5. Returns the bytes of the weights.
double write_large_model(const std::filesystem::path& path) {
  std::filesystem::create_directory(path);
  write_file_atomically(path / "config.json", to_json(config()).dump());
  std::vector<SafetensorsWriter::Spec> specs;
  double bytes = 0;
  for (const TensorSpec& spec : logical_tensor_specs(config())) specs.push_back({spec.name, at::kBFloat16, spec.shape});
  SafetensorsWriter writer(path / "model.safetensors", specs);
  for (uint32_t i = 0; i < specs.size(); ++i) {
    at::Tensor weights = at::empty(specs[i].shape, at::kBFloat16);
    auto* const words = static_cast<uint16_t*>(weights.mutable_data_ptr());
    CounterRng rng(1, kStreamTest, i);
    for (int64_t j = 0; j < weights.numel(); ++j) words[j] = static_cast<uint16_t>(0x3d00 | (rng.next_u32() & 0x80ff));
    writer.write(specs[i].name, weights);
    bytes += static_cast<double>(specs[i].bytes());
  }
  writer.finish();
  return bytes;
}

/// `bound`: the larger of the embedding and what the format stores as one tensor, mapped and as written, and blocks of
/// float64 (and pages of libraries that are touched for the first time).
void expect_bounded(const std::string& format, const std::string& dtype, double bound) {
  const testing::TempDir folder;
  const double bytes = write_large_model(folder / "native");
  v1::ExportSpec spec;
  spec.set_format(format);
  spec.set_dtype(dtype);
  spec.set_max_shard_bytes(100'000'000);
  const double growth = testing::peak_growth([&] {
    const ModelDirectory source(folder / "native");
    export_model({.spec = spec, .source = source, .output = folder / "out", .monitor = unwatched()},
                 *make_self_communicator());
  });
  if (growth < 0) GTEST_SKIP() << "/proc/self/clear_refs does not reset the peak on this machine";
  std::cout << format << " " << dtype << ": model " << bytes / kMib << " MiB, peak growth " << growth / kMib
            << " MiB, bound " << bound / kMib << " MiB\n";
  EXPECT_LT(growth, bound);
  EXPECT_GT(growth, 1 * kMib) << "the measure does not work";
}

constexpr double kEmbedding = 2.0 * kVocab * kHidden, kStacked = 2.0 * kExperts * 2 * kWidth * kHidden,
                 kBlocks = 64 * kMib;

TEST(ExportMemoryTest, PerExpertFilesHoldOneTensor) {
  expect_bounded("mixtral", "bfloat16", kEmbedding + 2 * kBlocks);
}
TEST(ExportMemoryTest, StackedExpertsHoldALayers) {
  expect_bounded("granitemoeshared", "float32", 4 * kStacked + kBlocks);
}

}  // namespace
}  // namespace moe
