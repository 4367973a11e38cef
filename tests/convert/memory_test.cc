// The promise of bounded memory, on a model that is much larger than the bound.

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <optional>
#include <string>

#include "checkpoint/model_directory.h"
#include "checkpoint/safetensors.h"
#include "common/file_io.h"
#include "common/rng.h"
#include "convert/conversion_fixture.h"
#include "convert/conversion_methods.h"
#include "model/parameters.h"
#include "testing/peak_memory.h"
#include "testing/tensor_memory.h"

namespace moe {
namespace {

using testing::kMib;
using testing::peak_growth;

constexpr int64_t kLayers = 12, kHidden = 1024, kWidth = 4096, kVocab = 16384;

struct Shape {
  int64_t layers = kLayers, hidden = kHidden, width = kWidth, vocab = kVocab;
};

ModelConfig config_of(const Shape& shape) {
  const nlohmann::json json = {{"architectures", {"LlamaForCausalLM"}},
                               {"model_type", "llama"},
                               {"hidden_size", shape.hidden},
                               {"intermediate_size", shape.width},
                               {"num_hidden_layers", shape.layers},
                               {"num_attention_heads", 16},
                               {"num_key_value_heads", 16},
                               {"vocab_size", shape.vocab},
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
double write_large_model(const std::filesystem::path& path, const Shape& shape = {}) {
  const ModelConfig config = config_of(shape);
  std::filesystem::create_directory(path);
  write_file_atomically(path / "config.json", config.source.dump());
  std::vector<SafetensorsWriter::Spec> specs;
  double bytes = 0;
  for (const TensorSpec& spec : logical_tensor_specs(config)) specs.push_back({spec.name, at::kBFloat16, spec.shape});
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

/// What a conversion of each method of the list holds in tensors.
class EveryMethodMemoryTest : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr int64_t kSmallHidden = 256, kSmallWidth = 1024, kSmallVocab = 512, kUnits = 4;

  /// Bytes of a layer in float.
  static double layer_bytes(const ModelConfig& config) {
    double bytes = 0;
    for (const TensorSpec& spec : logical_tensor_specs(config)) {
      if (spec.name.starts_with("model.layers.0."))
        bytes += 4.0 * static_cast<double>(c10::multiply_integers(spec.shape));
    }
    return bytes;
  }

  struct Held {
    double bytes = 0, layer_bytes = 0;  ///< of the larger: a dense layer, or one that is made
    double tokens = 0;                  ///< of calibration
  };

  Held convert(v1::ConvertSpec spec, int64_t layers) {
    const Shape shape{layers, kSmallHidden, kSmallWidth, kSmallVocab};
    const std::filesystem::path dense = folder_ / std::to_string(layers),
                                made = folder_ / ("made-" + dense.filename().string());
    write_large_model(dense, shape);
    nlohmann::json report;
    Held held;
    held.bytes = testing::peak_tensor_bytes([&] { report = testing::convert(spec, 1, dense, made); });
    held.layer_bytes = std::max(layer_bytes(config_of(shape)), layer_bytes(ModelDirectory(made).config()));
    held.tokens = report["calibration"]["tokens"];
    return held;
  }

  testing::TempDir folder_;
};
INSTANTIATE_TEST_SUITE_P(Methods, EveryMethodMemoryTest, ::testing::ValuesIn(conversion_methods().names()),
                         [](const auto& test) { return test.param; });

/// A layer in float, what is made of it, and as much again at most while it is made; and the text's way through it. All
/// that grows with the number of layers is what is planned of each and, of methods that need gradients, the states
/// before it and its sums.
TEST_P(EveryMethodMemoryTest, HoldsThreeLayersWhateverTheirNumber) {
  const ConversionMethod& method = conversion_methods().at(GetParam());
  const std::optional<v1::FfnExpertsSpec> sizes = testing::sizes_of(GetParam(), kSmallWidth, kUnits, 2);
  if (!sizes) GTEST_SKIP() << GetParam() << " has no mixture of " << kUnits << " parts of one model";
  testing::write_calibration(folder_ / "ids.jsonl", 20, kSmallVocab, 1);
  v1::ConvertSpec spec = testing::convert_spec(GetParam(), kUnits, 2, folder_ / "ids.jsonl");
  *spec.mutable_ffn() = *sizes;
  spec.mutable_router()->set_topk_norm(sizes->top_k() == 1 ? "straight_through" : "renorm");
  spec.mutable_calibration()->set_tokens(256);
  const Held few = convert(spec, 2), many = convert(spec, 6);
  ASSERT_EQ(few.tokens, many.tokens);

  const double states = 4.0 * few.tokens * kSmallHidden;
  // As CalibrationHoldsOneLayerInFloatTwice counts them.
  const double activations = 1.5 * 4.0 * few.tokens * (8 * kSmallHidden + 3 * kSmallWidth);
  const double sums = 8.0 * kUnits * (kSmallWidth + kSmallHidden);
  const double gradients = method.needs.gradients ? 4 * states + 8 * sums + 6 * sums : 0;
  std::cout << GetParam() << " holds " << few.bytes / kMib << " MiB of 2 layers, " << many.bytes / kMib
            << " MiB of 6; a layer " << few.layer_bytes / kMib << " MiB, activations " << activations / kMib
            << " MiB\n";
  EXPECT_LT(few.bytes, 3 * few.layer_bytes + activations + gradients);
  // Neurons as int64 and router rows in float.
  const double planned = 8.0 * kSmallWidth * kUnits + 4.0 * kUnits * kSmallHidden;
  EXPECT_LT((many.bytes - few.bytes) / 4, planned + (method.needs.gradients ? 2 * states + 2 * sums : 0));
}

}  // namespace
}  // namespace moe
