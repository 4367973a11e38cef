#pragma once

#include <string>
#include <vector>

#include "model/model_config.h"
#include "moe/v1/job.pb.h"

namespace moe {

/// A setting of how routers are trained that a model cannot be trained with.
struct RouterProblem {
  const char* field;    ///< of the training's message; the message names it
  std::string message;  ///< with the value and what to do
};

/// All of them: a choice where there are no experts; a capacity of experts where a token has several; the smooth load,
/// which cannot be of a choice that sees more than logits. `spec` is effective.
std::vector<RouterProblem> router_problems(const v1::TrainSpec& spec, const ModelConfig& config);

}  // namespace moe
