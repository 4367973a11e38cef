#pragma once

#include "kernels/backend.h"

namespace moe::kernels {

void permute_cpu(const PermuteArgs& args);
void unpermute_cpu(const UnpermuteArgs& args);
void unpermute_gradient_cpu(const UnpermuteGradientArgs& args);

}  // namespace moe::kernels
