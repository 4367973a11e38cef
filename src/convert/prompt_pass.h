#pragma once

#include <ATen/core/Tensor.h>

#include "comm/communicator.h"
#include "convert/layer_inputs.h"
#include "model/layer.h"
#include "model/rope.h"
#include "runtime/opened_model.h"

namespace moe {

/// The texts of ffn.prompts on their way through the dense model, layer by layer beside the calibration text
/// (convert/calibration_pass.h). Each is a sequence of its own, behind the token that the tokenizer puts before
/// documents; the ranks share them out, and no bit depends on how.
class PromptPass {
 public:
  /// Reads the texts. Throws InvalidArgument that names one that has no tokens, more than the model has positions, or
  /// one that the model has no row for.
  PromptPass(const v1::FfnExpertsSpec& ffn, const ModelConfig& config, const ModelText& reading, PromptNeeds needs,
             const Communicator& world);

  void embed(const at::Tensor& embedding_VD);
  /// Before the next layer.
  const PromptStates& states() const { return states_; }
  /// Whether advance() looks at layers.
  bool reads_layers() const { return needs_ == PromptNeeds::kHiddenStates; }
  void advance(const Layer& layer);

 private:
  const ModelConfig& config_;
  PromptNeeds needs_;
  at::Tensor tokens_T_;
  PromptStates states_;
  RopeAngles rope_;
  LocalDispatcher dispatcher_;
};

}  // namespace moe
