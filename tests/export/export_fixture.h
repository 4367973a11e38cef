#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "moe/v1/job.pb.h"
#include "testing/temp_dir.h"

namespace moe::testing {

/// A tiny native mixture: hidden 32, 2 layers, vocabulary 61.
struct MixtureSpec {
  std::string family = "llama";
  int64_t experts = 4;
  int64_t top_k = 2;
  std::string topk_norm = "renorm";
  std::string score = "softmax";
  std::string router = "linear";  ///< gate: linear, mlp, product
  bool selection_bias = false;
  bool output_bias = false;
  std::vector<int64_t> widths{12, 12};
  std::vector<int64_t> shared{0, 0};
  std::string shared_gate = "none";
  int64_t gate_rows = 1;
  double gate_scale = 1;
  std::vector<double> scales{1, 1};
  std::optional<AttentionExperts> attention{};
  nlohmann::json keys = nlohmann::json::object();  ///< put over those of config.json
};

ModelConfig mixture_config(const MixtureSpec& spec);

/// Writes it with random weights that depend on `seed` and the names alone.
void write_mixture(const std::filesystem::path& path, const MixtureSpec& spec, at::ScalarType dtype = at::kFloat,
                   uint64_t seed = 3);

/// Stores the tensors of a native model whose names have this part in another type.
void store_in(const std::filesystem::path& path, const std::string& part, at::ScalarType dtype);

/// Effective, in float32.
v1::ExportSpec export_spec(const std::string& format = "auto");

/// Exports on one rank; returns the report.
nlohmann::json export_to(const std::filesystem::path& source, const std::filesystem::path& output,
                         const v1::ExportSpec& spec = export_spec());

/// What exporting throws; "" if it does not.
std::string refusal(const std::filesystem::path& source, const v1::ExportSpec& spec);

/// Logits of 3 sequences of random tokens, [61, V].
at::Tensor logits_of_directory(const std::filesystem::path& path);

class ExportTest : public ::testing::Test {
 protected:
  std::filesystem::path native() const { return folder_ / "native"; }
  std::filesystem::path out() const { return folder_ / "out"; }
  TempDir folder_;
};

}  // namespace moe::testing
