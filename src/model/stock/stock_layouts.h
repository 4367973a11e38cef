#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "common/registry.h"
#include "model/stock/stock_layout.h"

namespace moe {

/// THE list of stock MoE architectures, by `model_type`, and of the layouts that share one with another.
const Registry<StockLayout>& stock_layouts();

/// The one that this config.json is of; empty: none.
std::string stock_layout_of(const nlohmann::json& source);

/// Reads the config.json of a stock MoE: everything but the special tokens. `where` starts every message. Throws
/// InvalidArgument.
ModelConfig read_stock_config(const nlohmann::json& source, const std::string& where);

/// How a model read by read_stock_config is stored.
StockForm stored_form(const ModelConfig& config);

}  // namespace moe
