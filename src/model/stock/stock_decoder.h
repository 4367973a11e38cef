#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/json_fields.h"
#include "model/stock/stock_layout.h"

/// What the stock layouts share: a LLaMA-shaped decoder around the mixture.
namespace moe {

/// Which biases the architecture's attention stores, whether the model has them or not.
struct StockBiases {
  bool qkv = false;
  bool o = false;
};

/// Writes the tensors of one layer's mixture; `prefix` is "model.layers.L.".
using AddMixture = std::function<void(int64_t layer, const std::string& prefix, std::vector<PiecedTensor>& tensors)>;

/// Embedding, attention, norms and head, with the mixtures in their places.
std::vector<PiecedTensor> stock_decoder_tensors(const ModelConfig& config, const StockForm& form, StockBiases biases,
                                                const AddMixture& add_mixture);

/// The keys of config.json that all layouts have, in the spelling of transformers 4 (5 reads it too).
nlohmann::json stock_decoder_config(const ModelConfig& config, const StockForm& form, const std::string& model_type,
                                    const std::string& architecture);

/// The stock config.json as that of its dense base: `own_keys` removed, `defaults` for keys that are absent. The base
/// family then reads it into `config`.
void read_dense_base(const nlohmann::json& source, const std::string& where, const std::string& family,
                     const std::vector<std::string>& own_keys, const nlohmann::json& defaults, ModelConfig& config);

/// What all read alike: `experts` and `top_k` name the keys; one width for all layers, no scale.
MoeConfig read_stock_moe(const JsonFields& fields, const ModelConfig& config, const char* experts_key,
                         int64_t experts_default, const char* top_k_key, int64_t top_k_default);

/// The factor of each layer's routed sum: a number for all, or a list of one for each.
std::vector<double> read_stock_scales(const JsonFields& fields, const char* key, double otherwise, int64_t layers);

}  // namespace moe
