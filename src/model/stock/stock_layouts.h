#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "common/registry.h"
#include "model/stock/stock_layout.h"

namespace moe {

/// THE list of stock MoE architectures, by `model_type`.
const Registry<StockLayout>& stock_layouts();

/// Reads the config.json of a stock MoE: everything but the special tokens. `where` starts every message. Throws
/// InvalidArgument.
ModelConfig read_stock_config(const nlohmann::json& source, const std::string& where);

/// How a model read by read_stock_config is stored.
StockForm stored_form(const ModelConfig& config);

}  // namespace moe
