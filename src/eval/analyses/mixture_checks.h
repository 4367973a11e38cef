#pragma once

#include <string>

#include "checkpoint/model_directory.h"

/// What speaks against an analysis of a model (Analysis::refusal).
namespace moe {

/// Of one that looks at what routers do.
std::string needs_a_router(const ModelDirectory& model);

/// Of one that looks at the experts of an FFN.
std::string needs_ffn_experts(const ModelDirectory& model);

}  // namespace moe
