#pragma once

#include "convert/conversion_method.h"

namespace moe {

/// Several dense models of one shape as the experts of one (Branch-Train-MiX, arXiv:2403.07816): expert 0 is the FFN of
/// the model that is converted, expert i that of ffn.others[i - 1]. What stands beside the FFNs is the model's own, or
/// the mean of all models. Routers begin with what the experts' prompts are in the model, or with random rows.
ConversionMethod merge();

}  // namespace moe
