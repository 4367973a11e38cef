#include "model/stock/stock_layouts.h"

#include <algorithm>

#include "model/stock/glm4_moe_layout.h"
#include "model/stock/granite_moe_layout.h"
#include "model/stock/llama_moe_layout.h"
#include "model/stock/llama_moe_v2_layout.h"
#include "model/stock/mixtral_layout.h"
#include "model/stock/qwen2_moe_layout.h"

namespace moe {
namespace {

constexpr char kLlamaMoe[] = "llama_moe";
constexpr char kLlamaMoeV2[] = "llama_moe_v2";

}  // namespace

const Registry<StockLayout>& stock_layouts() {
  static const Registry<StockLayout> layouts("stock MoE architecture (`model_type`)",
                                             {
                                                 {"mixtral", mixtral_layout()},
                                                 {"granitemoeshared", granite_moe_layout("granitemoeshared")},
                                                 {"granitemoe", granite_moe_layout("granitemoe")},
                                                 {"qwen2_moe", qwen2_moe_layout()},
                                                 {"glm4_moe", glm4_moe_layout("glm4_moe")},
                                                 {"solar_open", glm4_moe_layout("solar_open")},
                                                 {kLlamaMoe, llama_moe_layout()},
                                                 {kLlamaMoeV2, llama_moe_v2_layout()},
                                             });
  return layouts;
}

std::string stock_layout_of(const nlohmann::json& source) {
  const auto type = source.at("model_type").get<std::string>();
  if (type == "mixtral" && is_llama_moe_v2(source)) return kLlamaMoeV2;
  if (type == kLlamaMoeResidual) return kLlamaMoe;  // which refuses it with the reason
  return stock_layouts().contains(type) ? type : "";
}

ModelConfig read_stock_config(const nlohmann::json& source, const std::string& where) {
  ModelConfig config;
  config.stock_layout = stock_layout_of(source);
  stock_layouts().at(config.stock_layout).read_config(source, where, config);
  return config;
}

StockForm stored_form(const ModelConfig& config) {
  // The same in every layer that has any.
  const auto widest = [](const std::vector<int64_t>& widths) {
    return *std::max_element(widths.begin(), widths.end());
  };
  return {.expert_width = widest(config.moe->expert_widths),
          .shared_width = widest(config.moe->shared_widths),
          .is_tied = config.tie_word_embeddings,
          .qkv_bias = config.qkv_bias};
}

}  // namespace moe
