#include "model/stock/stock_layouts.h"

#include <algorithm>

#include "model/stock/granite_moe_layout.h"
#include "model/stock/mixtral_layout.h"
#include "model/stock/qwen2_moe_layout.h"

namespace moe {

const Registry<StockLayout>& stock_layouts() {
  static const Registry<StockLayout> layouts("stock MoE architecture (`model_type`)",
                                             {
                                                 {"mixtral", mixtral_layout()},
                                                 {"granitemoeshared", granite_moe_layout("granitemoeshared")},
                                                 {"granitemoe", granite_moe_layout("granitemoe")},
                                                 {"qwen2_moe", qwen2_moe_layout()},
                                             });
  return layouts;
}

ModelConfig read_stock_config(const nlohmann::json& source, const std::string& where) {
  ModelConfig config;
  const auto type = source.at("model_type").get<std::string>();
  stock_layouts().at(type).read_config(source, where, config);
  config.stock_layout = type;
  return config;
}

StockForm stored_form(const ModelConfig& config) {
  // The same in every layer that has any.
  const auto widest = [](const std::vector<int64_t>& widths) {
    return *std::max_element(widths.begin(), widths.end());
  };
  return {widest(config.moe->expert_widths), widest(config.moe->shared_widths), config.tie_word_embeddings,
          config.qkv_bias};
}

}  // namespace moe
