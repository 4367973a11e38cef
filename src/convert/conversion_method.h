#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "convert/layer_inputs.h"
#include "convert/layer_plan.h"
#include "convert/method_options.h"
#include "model/model_config.h"

namespace moe {

/// What must be there before a method plans. Whatever is ticked but `weights` needs calibration text; it costs what it
/// says once for the whole model, whichever method asks.
struct MethodNeeds {
  bool weights = false;        ///< LayerInputs::dense
  bool hidden_states = false;  ///< LayerInputs::features: the forward pass, layer by layer
  bool activations = false;    ///< and in it the FFN activations
  bool gradients = false;      ///< LayerInputs::importance: forward and backward through the whole dense model before

  bool text() const { return hidden_states || activations || gradients; }
};

/// Groups of this rank's tokens in one layer, for importance by group.
struct TokenGroups {
  int64_t count = 1;
  at::Tensor ids_T;               ///< int64 in [0, count)
  at::Tensor rows_GD{};           ///< kept as Importance::group_rows_GD; may be undefined
  bool is_of_all_layers = false;  ///< the same in every layer: not asked for again
};
/// Groups the tokens of a layer, the same at any number of ranks. Collective. `layer` has the dense stream's features
/// (no activations, no converted stream); `hidden_TD` [layers + 1] are the dense stream's states before each layer, and
/// after the last: documents are told apart by those of one layer, tokens by their own layer's FFN inputs.
using GroupTokens =
    std::function<TokenGroups(const LayerInputs& layer, const std::vector<at::Tensor>& hidden_TD, Communicator& world)>;

/// How much calibration text there is, of all ranks.
struct TextSize {
  int64_t documents = 0;  ///< or pieces of at most a row of longer ones
  int64_t tokens = 0;
};

/// A closed-form way to build a mixture out of a dense model, layer by layer. The same plan on every rank, and at any
/// number of them. A method that makes a partition puts every neuron into exactly one expert or the shared part
/// (checked by the converter), so that the parts sum to the dense output.
struct ConversionMethod {
  std::string summary;       ///< one line, with its source
  bool is_partition = true;  ///< whatever its options
  /// Whether they are one with these options. Absent: is_partition.
  std::function<bool(const MethodOptions& options)> is_partition_with{};
  /// Collective. Layers come in order.
  std::function<LayerPlan(const LayerInputs& inputs, Communicator& world)> plan;
  /// The widths that plan() will give each layer, where they follow from config and spec: layers are then planned and
  /// written one after the other. Absent, or none said: all are planned before the first is written.
  std::function<LayerWidths(const ModelConfig& config, const v1::ConvertSpec& spec)> widths{};
  MethodNeeds needs{};
  std::vector<MethodOption> options{};  ///< settings of its own: LayerInputs::options
  bool has_shared = false;              ///< ffn.shared_experts may be given
  /// Whether, with these options, layers have a shared part, of a width of their own, though ffn.shared_experts is 0.
  /// Absent: they have none.
  std::function<bool(const MethodOptions& options)> shares_by_layer{};
  bool has_free_width = false;  ///< ffn.expert_width may be given
  bool has_others = false;      ///< ffn.others may be given: plans take from several models
  /// Why these sizes, or options with them, cannot be, as the end of an error, with what to use instead; empty if they
  /// can. Absent: experts and shared experts together divide the FFN's width.
  std::function<std::string(const ModelConfig& config, const v1::FfnExpertsSpec& ffn)> size_problem{};
  /// Why so little text does not do, as the end of an error, with what to do; empty if it does. Asked as soon as the
  /// text is read. Absent: any does.
  std::function<std::string(const v1::FfnExpertsSpec& ffn, const MethodOptions& options, const TextSize& text)>
      text_problem{};
  bool has_router = false;          ///< plans bring a router; router.init is left aside
  bool has_product_router = false;  ///< with router.gate product the one that they bring is one
  /// Options that a product router does not ask: refused together with one.
  std::vector<std::string> linear_router_options{};
  /// What of ffn.prompts plans look at with these options: the prompts have to be given then, and must not else.
  /// Absent: nothing.
  std::function<PromptNeeds(const MethodOptions& options)> prompts{};
  /// Tensors before and after the layers that are not copied from the model: under their names in it. Absent: none.
  std::function<std::vector<PiecedTensor>(const ModelConfig& config, const v1::ConvertSpec& spec,
                                          const MethodOptions& options)>
      ends{};
  /// How many experts, one after the other, share a row of the router (virtual groups): router.init makes a row for
  /// each such group. Absent: 1.
  std::function<int64_t(const MethodOptions& options)> router_group{};
  GroupTokens group_tokens{};  ///< with needs.gradients; absent: one group
  /// What decides the groups beside text, model and seed, for example "text 8": importance by groups of one name is
  /// measured once and kept with the calibration. Absent, with group_tokens: it is not kept.
  std::function<std::string(const v1::FfnExpertsSpec& ffn, const MethodOptions& options)> groups_name{};
  /// The router.init by which an expert is routed the tokens that it was made for; empty if there is none such. Another
  /// one is warned of. Absent: none.
  std::function<std::string(const MethodOptions& options)> own_router_init{};
  /// Why the method cannot convert the FFNs of this model, as the end of "method X does not apply: "; empty if it can.
  /// Absent: it converts those of every family.
  std::function<std::string(const ModelConfig&)> refusal{};
};

/// What the method, with the options of the spec, looks at of ffn.prompts.
PromptNeeds prompt_needs(const ConversionMethod& method, const MethodOptions& options);

/// Whether the method makes a partition of every FFN that is converted like this.
bool makes_partition(const ConversionMethod& method, const v1::FfnExpertsSpec& ffn);

/// Neurons of an expert: ffn.expert_width, or the FFN's width over experts and shared experts.
int64_t part_width(const ModelConfig& config, const v1::FfnExpertsSpec& ffn);

/// `experts` parts of one width, and a shared part as wide as shared_experts of them.
LayerWidths equal_parts(const ModelConfig& config, const v1::ConvertSpec& spec);

/// The size_problem of a method that has none of its own.
std::string division_problem(const ModelConfig& config, const v1::FfnExpertsSpec& ffn);

/// For methods that compare what neurons give on the calibration text, on every rank: it is NaN or infinite.
[[noreturn]] void throw_overflow(int64_t layer);

/// For methods that score neurons by what their gate does.
std::string needs_gated_ffn(const ModelConfig& config);

}  // namespace moe
