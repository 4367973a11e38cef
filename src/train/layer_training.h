#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "model/model_config.h"
#include "model/parameters.h"

// T tokens, D hidden.
namespace moe {

/// The mixture of one layer, by itself.
struct LayerTraining {
  const ModelConfig& config;
  int64_t layer = 0;
  std::vector<Parameter>& parameters;   ///< all that the mixture is made of, in float: changed in place
  const std::vector<bool>& is_trained;  ///< [parameters]; the others keep every bit
  at::Tensor inputs_TD, wanted_TD;      ///< what its FFN reads, and what it shall give

  int64_t steps = 0;
  double learning_rate = 0;  ///< peak
  int64_t batch_tokens = 0;
  uint64_t seed = 0;
  std::function<bool()> should_stop{};  ///< asked before each step
};

/// Trains the mixture to give what is wanted: AdamW without decay on the squared error over the energy of what is
/// wanted, linear warm-up over a twentieth of the steps, then half a cosine to a tenth of the peak. A step takes the
/// next batch_tokens of the tokens in random order, shuffled anew each time that all were taken, or all of them where
/// there are no more. On the calling thread, no collective; a function of its arguments and the number of threads.
/// False if it was asked to stop: the parameters are then of no use. Throws Diverged when the error is not finite.
/// Source   layer-wise reconstruction as a repair of converted layers: LLaMA-MoE v2 specification 8.3, X12.
bool train_layer(const LayerTraining& training);

}  // namespace moe
