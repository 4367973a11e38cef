// The promise of bounded memory, on a model that is much larger than the bound.

#include <gtest/gtest.h>

#include <iostream>
#include <string>

#include "checkpoint/safetensors.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "convert/conversion_fixture.h"
#include "model/parameters.h"
#include "testing/peak_memory.h"
#include "testing/tensor_memory.h"

namespace moe {
namespace {

using testing::kMib;
using testing::peak_growth;

constexpr int64_t kLayers = 12, kHidden = 1024, kWidth = 4096, kVocab = 16384;

ModelConfig config() {
  const nlohmann::json json = {{"architectures", {"LlamaForCausalLM"}},
                               {"model_type", "llama"},
                               {"hidden_size", kHidden},
                               {"intermediate_size", kWidth},
                               {"num_hidden_layers", kLayers},
                               {"num_attention_heads", 16},
                               {"num_key_value_heads", 16},
                               {"vocab_size", kVocab},
                               {"max_position_embeddings", 256},
                               {"rms_norm_eps", 1e-5},
                               {"tie_word_embeddings", true}};
  return parse_model_config(json.dump(), "model");
}

/// bf16 weights: random bits with an exponent around 2^-5.
at::Tensor random_weights(at::IntArrayRef shape, uint32_t stream) {
  at::Tensor weights = at::empty(shape, at::kBFloat16);
  auto* const words = static_cast<uint16_t*>(weights.mutable_data_ptr());
  CounterRng rng(1, kStreamTest, stream);
  for (int64_t i = 0; i < weights.numel(); ++i) words[i] = static_cast<uint16_t>(0x3d00 | (rng.next_u32() & 0x80ff));
  return weights;
}

/// Returns the bytes of the weights.
double write_large_model(const std::filesystem::path& path) {
  std::filesystem::create_directory(path);
  write_file_atomically(path / "config.json", config().source.dump());
  std::vector<SafetensorsWriter::Spec> specs;
  double bytes = 0;
  for (const TensorSpec& spec : logical_tensor_specs(config())) specs.push_back({spec.name, at::kBFloat16, spec.shape});
  SafetensorsWriter writer(path / "model.safetensors", specs);
  uint32_t stream = 0;
  for (const auto& spec : specs) {
    writer.write(spec.name, random_weights(spec.shape, stream++));
    bytes += 2.0 * static_cast<double>(at::zeros({1}).expand(spec.shape).numel());
  }
  writer.finish();
  return bytes;
}

class MemoryTest : public ::testing::Test {
 protected:
  MemoryTest() : bytes_(write_large_model(folder_ / "dense")) {}

  /// Converts and holds the growth to `bound` bytes.
  void expect_bounded(const v1::ConvertSpec& spec, double bound) {
    const double growth = peak_growth([&] { testing::convert(spec, 1, folder_ / "dense", folder_ / "out"); });
    if (growth < 0) GTEST_SKIP() << "/proc/self/clear_refs does not reset the peak on this machine";
    std::cout << "model " << bytes_ / kMib << " MiB, peak growth " << growth / kMib << " MiB, bound " << bound / kMib
              << " MiB\n";
    EXPECT_LT(growth, bound);
    EXPECT_GT(growth, 1 * kMib) << "the measure does not work";
  }

  /// bf16 bytes: a layer's FFN and attention; here as large as the embedding.
  static constexpr double kLayer = 2.0 * (3 * kHidden * kWidth + 4 * kHidden * kHidden);
  static_assert(2.0 * kVocab * kHidden <= kLayer * 1.01);
  testing::TempDir folder_;
  double bytes_;
};

/// Slicing holds a layer's pages and one expert's copy.
TEST_F(MemoryTest, SlicingHoldsOneLayer) {
  v1::ConvertSpec spec = testing::convert_spec("independent_random", 8, 2);
  expect_bounded(spec, 2 * kLayer);
}

/// Calibration holds a layer in float and its FFN in float again, as experts; and the calibration tokens' activations.
/// (The bf16 source is mapped.) Counted in tensors, not in the process's resident memory, which the allocator, huge
/// pages and a busy machine move by tens of MiB.
TEST_F(MemoryTest, CalibrationHoldsOneLayerInFloatTwice) {
  testing::write_calibration(folder_ / "ids.jsonl", 20, kVocab, 1);
  v1::ConvertSpec spec = testing::convert_spec("independent_random", 8, 2, folder_ / "ids.jsonl");
  spec.mutable_calibration()->set_tokens(256);
  nlohmann::json report;
  const double held =
      testing::peak_tensor_bytes([&] { report = testing::convert(spec, 1, folder_ / "dense", folder_ / "out"); });
  constexpr double kFfn = 4.0 * 3 * kHidden * kWidth, kAttention = 4.0 * 4 * kHidden * kHidden;
  // Of each token: both streams, FFN inputs and outputs (8 of the hidden size), gate, up and their product (3 of the
  // width); and half as much again, which operations may take for themselves. A layer more is five times that slack.
  const double activations = 1.5 * 4.0 * report["calibration"]["tokens"].get<double>() * (8 * kHidden + 3 * kWidth);
  const double bound = kAttention + kFfn + kFfn + activations;
  std::cout << "layer in float " << (kAttention + kFfn) / kMib << " MiB, activations of "
            << report["calibration"]["tokens"] << " tokens " << activations / kMib << " MiB, tensors held "
            << held / kMib << " MiB, bound " << bound / kMib << " MiB\n";
  EXPECT_LT(held, bound);
  EXPECT_GT(held, kAttention + 2 * kFfn) << "the measure does not work";
  EXPECT_LT(bound, 3 * (kAttention + kFfn)) << "a third copy would pass";
}

}  // namespace
}  // namespace moe
