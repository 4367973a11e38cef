#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "comm/communicator.h"
#include "data/data_loader.h"
#include "moe/v1/job.pb.h"
#include "testing/temp_dir.h"

namespace moe::testing {

/// A conversion with every field set that has a default; calibration by `calibration` unless it is empty.
v1::ConvertSpec convert_spec(const std::string& method, int experts, int top_k,
                             const std::filesystem::path& calibration = {});

/// Sizes of an FFN of `width` neurons in `units` parts, as a method of the list has them: experts, or one of the parts
/// shared, or one part alone; absent where it can be none of these. THE place for a method that needs other sizes.
std::optional<v1::FfnExpertsSpec> sizes_of(const std::string& method, int64_t width, int units, int top_k);

/// The same as a conversion of the tiny model (FFN 48), by `calibration` if it is given.
v1::ConvertSpec method_spec(const std::string& method, int units, int top_k,
                            const std::filesystem::path& calibration = {});

/// An option of the method, ffn.options.
void set_option(v1::ConvertSpec& spec, const std::string& name, const std::string& value);
/// A file of calibration text.
void add_text(v1::ConvertSpec& spec, const std::filesystem::path& path);
/// Calibration text for a method that cannot do without.
void give_needed_text(v1::ConvertSpec& spec, const std::filesystem::path& calibration);
/// Whether experts are neurons of the model, whose numbers conversion.safetensors holds.
bool writes_neurons(const std::string& method);
/// Why a test of partitions has nothing to test: the method makes none, or does not apply. Empty if there is.
std::string no_partition_of(const std::string& method, const ModelConfig& config);
/// With values that the mode needs: 2.7 of every layer, or 1.9 and 2.3 of the tiny model's.
void set_scale_mode(v1::ScaleSpec& scale, const std::string& mode);
/// Lets all experts count alike, by a router of zeros or, where the method brings its own, weights of 1, at the scale
/// at which a partition is the dense function, which is returned.
double count_all_alike(v1::ConvertSpec& spec);

/// Writes a dense model with random weights, depending on `seed` alone.
void write_dense_model(const std::filesystem::path& path, const ModelConfig& config, uint64_t seed,
                       at::ScalarType dtype = at::kFloat);

/// The same with something changed in its parameters.
void write_dense_model(const std::filesystem::path& path, const ModelConfig& config, uint64_t seed,
                       const std::function<void(const Parameter&)>& change);

/// Writes a JSONL file of {"ids"} documents of 20 to 60 random tokens.
void write_calibration(const std::filesystem::path& path, int documents, int64_t vocab_size, uint64_t seed);

/// The rows of a text to which a conversion of a model with this config is fitted, by a job with this seed and so many
/// tokens of calibration; and those that follow, of which its receipt is.
PackedBatch calibration_rows(const ModelConfig& config, const std::filesystem::path& text, uint64_t seed,
                             int64_t tokens);
PackedBatch held_out_rows(const ModelConfig& config, const std::filesystem::path& text, uint64_t seed, int64_t tokens);

/// Converts on one rank; the tokenizer is that of the source, if it has one.
nlohmann::json convert(const v1::ConvertSpec& spec, uint64_t seed, const std::filesystem::path& source,
                       const std::filesystem::path& output);
/// Collective.
nlohmann::json convert(const v1::ConvertSpec& spec, uint64_t seed, const std::filesystem::path& source,
                       const std::filesystem::path& output, Communicator& world);
/// By a method of fixture_methods.h, which may take from `others` too. Collective.
nlohmann::json convert_by_fixture(const v1::ConvertSpec& spec, uint64_t seed, const std::filesystem::path& source,
                                  const std::filesystem::path& output, Communicator& world,
                                  const std::vector<std::filesystem::path>& others = {});

/// Dense logits or MoE logits of all rows of the batch.
at::Tensor logits_of(const std::filesystem::path& model, const TokenBatch& batch, at::ScalarType dtype = at::kFloat);

/// A fresh folder with a tiny dense model ("dense") of a kind of testing/tiny_model.h, and calibration ids
/// ("ids.jsonl").
class ConversionTest : public ::testing::Test {
 protected:
  explicit ConversionTest(const std::string& kind = "llama");

  std::filesystem::path dense() const { return folder_ / "dense"; }
  std::filesystem::path ids() const { return folder_ / "ids.jsonl"; }
  std::filesystem::path out() const { return folder_ / "out"; }

  /// What the InvalidArgument says with which a conversion of the dense model, or of another, to out() is refused;
  /// nothing may be left of it.
  std::string refusal(const v1::ConvertSpec& spec) const { return refusal(spec, dense()); }
  std::string refusal(const v1::ConvertSpec& spec, const std::filesystem::path& source) const;

  /// Converts the dense model on 1, 2 and 4 ranks, below `name`: these files are the same bytes.
  void expect_same_files_at_any_ranks(const v1::ConvertSpec& spec, const std::vector<std::string>& files,
                                      const std::string& name = "ranks") const;

  TempDir folder_;
};

}  // namespace moe::testing
