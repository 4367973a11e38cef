#pragma once

#include <nlohmann/json.hpp>

#include "model/stock/stock_layout.h"

namespace moe {

/// A LLaMA-MoE v2 as its authors publish it: the names and the `model_type` of mixtral, and besides a scale of the
/// routed sum, an expert that sees every token at weight 1 (`mlp_residual`), dense layers at both ends
/// (`num_moe_contract_layers`), and attention of experts (`use_attn_moe`). Read only: what it holds but for attention
/// experts, granitemoeshared and qwen2_moe hold for stock clients.
///
/// Source   Qu et al. 2024, arXiv:2411.15708; `MixtralForCausalLM` of OpenSparseLLMs/LLaMA-MoE-v2.
StockLayout llama_moe_v2_layout();

/// Whether a config.json of model_type mixtral is of this program.
bool is_llama_moe_v2(const nlohmann::json& source);

}  // namespace moe
