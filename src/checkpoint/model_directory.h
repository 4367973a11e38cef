#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <string>

#include "checkpoint/stock_view.h"
#include "checkpoint/weight_files.h"
#include "model/decoder.h"
#include "model/layer.h"
#include "model/model_config.h"

namespace moe {

/// A Hugging Face or native model directory, opened and checked: config.json and one safetensors file or shards with an
/// index. Opening checks that every expected tensor is there with one value (WeightFiles), its shape and a dtype that
/// we load, and nothing else; one error lists all that is missing, unexpected or mis-shaped. Weights are mapped, not
/// read. A stock mixture (mixtral, granitemoeshared, qwen2_moe) shows the logical tensors of a native one, wherever its
/// files hold them.
class ModelDirectory {
 public:
  /// Throws InvalidArgument or Corruption that names file and tensor.
  explicit ModelDirectory(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  /// Of each mixture's experts a token uses `top_k` from here on, whatever config.json says; the output scale stays.
  /// Throws InvalidArgument where the model's FFNs are no mixtures or have not as many.
  void use_top_k(int64_t top_k);

  /// The stored tensor (view of the mapping), its dtype as stored. Throws Corruption if a value is not finite.
  at::Tensor tensor(const std::string& name) const;
  /// Its dtype as stored.
  at::ScalarType tensor_type(const std::string& name) const;
  /// Type of the stored weights, as safetensors names it ("F32", "BF16"): of the first tensor.
  std::string stored_dtype() const;
  void release(const std::string& name) const;
  /// XXH3 over config.json and the headers and contents of the weight files.
  std::string digest() const;

 private:
  std::filesystem::path path_;
  ModelConfig config_;
  WeightFiles files_;
  std::optional<StockView> stock_;  ///< of a stock mixture

  at::Tensor stored_tensor(const std::string& name) const;
  const std::string& stored_name(const std::string& name) const;
  void find_tensors();
  void adapt_stock();
};

/// Loads `experts` of every layer (ignored for a dense model) into aligned tensors of the options' type, on their
/// device. The routers of a mixture that has no selection biases get some of zero where `with_selection_bias`.
Decoder load_decoder(const ModelDirectory& directory, const at::TensorOptions& options, const OwnedExperts& experts,
                     bool with_selection_bias = false);

/// One layer with all its experts, as load_decoder() would have it; its pages are released.
Layer load_layer(const ModelDirectory& directory, int64_t layer, at::ScalarType dtype);

}  // namespace moe
