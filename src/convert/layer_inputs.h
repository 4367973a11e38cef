#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <variant>
#include <vector>

#include "convert/method_options.h"
#include "model/layer.h"
#include "model/model_config.h"
#include "moe/v1/job.pb.h"

/// What a conversion method may look at to plan one layer. T tokens of this rank, D hidden, F neurons of the dense FFN,
/// G groups of tokens. What is there for a method to see is what it declares (MethodNeeds): a clustering of neurons
/// reads `dense`; a split by importance `importance`, by text cluster if it groups tokens (Independent-Gradient and the
/// shared parts of LLaMA-MoE v1, residual experts of v2); a co-activation graph and the analytic splits of CMoE and
/// ExpertWeaver `features->activations_TF`, the last by document; merging `prompts`, upcycling nothing.
namespace moe {

/// Inputs of one layer's FFN, or of its attention, on the calibration tokens, spread over the ranks: this rank's rows
/// are tokens [first, first + rows) of `total`.
struct CalibrationFeatures {
  at::Tensor local_TD;  ///< float
  int64_t first = 0;
  int64_t total = 0;
};

/// The calibration text in one layer, in float, on its way through two models: the dense one, and the one that is
/// converted so far, which is what the layer will really be given.
struct LayerFeatures {
  CalibrationFeatures attention_inputs{};      ///< of the dense stream; where the layer's attention becomes experts
  at::Tensor converted_attention_inputs_TD{};  ///< of the converted stream; the same
  CalibrationFeatures ffn_inputs;              ///< of the dense stream
  /// Dense stream with this layer's attention added, before its FFN; before its attention while that becomes experts.
  at::Tensor hidden_TD;
  at::Tensor converted_ffn_inputs_TD;  ///< of the converted stream
  at::Tensor converted_hidden_TD;      ///< as hidden_TD
  at::Tensor
      activations_TF{};  ///< of the dense stream: silu(gate x) * up x, or gelu_new(up x); undefined unless needed
  /// Documents, or pieces of at most a row of longer ones: local tokens [cu_seqlens[s], cu_seqlens[s + 1]).
  std::vector<int64_t> cu_seqlens{0};

  /// Of document s of this rank: the place of its first token in the whole text. The same at any number of ranks.
  int64_t document_id(size_t s) const { return ffn_inputs.first + cu_seqlens[s]; }
};

/// What neurons are worth, to first order: how much the loss changes if one is removed.
/// Source   LLaMA-MoE v1 specification 1.4, v2 1.4.
struct Importance {
  at::Tensor scores_GF;        ///< double: sum over the tokens of a group of |h * dL/dh|, L the summed token loss, or
                               ///< as ImportanceMeasure has it
  at::Tensor tokens_G;         ///< int64
  at::Tensor group_rows_GD{};  ///< what the groups were told apart by, where the method gave it (TokenGroups)
  /// Whether more text would change the order: Spearman's correlation of what even and odd rows of text say, mean over
  /// groups. NaN where one of them says nothing.
  double halves_correlation = std::numeric_limits<double>::quiet_NaN();
};

/// What a method looks at of the texts of ffn.prompts: nothing, their tokens' embeddings, or their states before each
/// layer, for which they go through the dense model.
enum class PromptNeeds { kNone, kEmbeddings, kHiddenStates };

/// The texts of ffn.prompts, spread over the ranks: expert by expert, the positive ones before the negative ones.
struct PromptStates {
  at::Tensor hidden_TD;                ///< float: of the dense stream before the layer, or embeddings
  std::vector<int64_t> cu_seqlens{0};  ///< this rank's prompts: tokens [cu_seqlens[p], cu_seqlens[p + 1])
};

struct LayerInputs {
  const ModelConfig& config;  ///< of the dense model
  const v1::ConvertSpec& spec;
  int64_t layer = 0;
  uint64_t seed = 0;
  const Layer* dense = nullptr;  ///< in float, where the method needs weights, and wherever text runs through
  const LayerFeatures* features = nullptr;               ///< wherever text runs through
  const Importance* importance = nullptr;                ///< where the method needs gradients
  const PromptStates* prompts = nullptr;                 ///< where the method needs prompts
  const MethodOptions& options = MethodOptions::none();  ///< those that the method declares

  const FeedForwardWeights& dense_ffn() const { return std::get<FeedForwardWeights>(dense->ffn); }
};

}  // namespace moe
