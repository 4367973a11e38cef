#include "model/stock/mixtral_layout.h"

#include "common/error.h"
#include "model/stock/stock_decoder.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr char kMixtralArchitecture[] = "MixtralForCausalLM";

void read_mixtral_config(const json& source, const std::string& where, ModelConfig& config) {
  const JsonFields fields(source, where);
  if (fields.has("sliding_window"))
    fields.fail("sliding_window", "null: this model's attention window is not supported");
  read_dense_base(
      source, where, "llama", {"num_local_experts", "num_experts_per_tok", "router_jitter_noise", "sliding_window"},
      {{"num_key_value_heads", 8}, {"rms_norm_eps", 1e-5}, {"rope_theta", 1e6}, {"max_position_embeddings", 131072}},
      config);
  config.moe = read_stock_moe(fields, config, "num_local_experts", 8, "num_experts_per_tok", 2);
  config.moe->expert_widths.assign(config.num_layers, config.intermediate_size);
}

json write_mixtral_config(const ModelConfig& config, const StockForm& form) {
  json written = stock_decoder_config(config, form, "mixtral", kMixtralArchitecture);
  written["head_dim"] = config.head_dim;
  written["intermediate_size"] = form.expert_width;
  written["num_experts_per_tok"] = config.moe->top_k;
  written["num_local_experts"] = config.moe->num_experts;
  written["router_jitter_noise"] = 0.0;
  written["sliding_window"] = nullptr;
  return written;
}

std::vector<PiecedTensor> mixtral_tensors(const ModelConfig& config, const StockForm& form) {
  const MoeConfig& moe = *config.moe;
  return stock_decoder_tensors(
      config, form, {}, [&](int64_t layer, const std::string& prefix, std::vector<PiecedTensor>& all) {
        const std::string stock = prefix + "block_sparse_moe.", native = prefix + "mlp.";
        all.push_back({stock + "gate.weight", {moe.num_experts, config.hidden_size}, {{native + "router.weight"}}});
        for (int64_t expert = 0; expert < moe.num_experts; ++expert) {
          const std::string from = concat(native, "experts.", expert, "."), to = concat(stock, "experts.", expert, ".");
          all.push_back({to + "w1.weight", {form.expert_width, config.hidden_size}, {{from + "gate_proj.weight"}}});
          all.push_back({to + "w2.weight",
                         {config.hidden_size, form.expert_width},
                         {{from + "down_proj.weight", -1, 0, moe.output_scale[layer]}}});
          all.push_back({to + "w3.weight", {form.expert_width, config.hidden_size}, {{from + "up_proj.weight"}}});
        }
      });
}

}  // namespace

StockLayout mixtral_layout() {
  return {kMixtralArchitecture, read_mixtral_config, write_mixtral_config, mixtral_tensors};
}

}  // namespace moe
