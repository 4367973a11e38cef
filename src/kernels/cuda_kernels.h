#pragma once

#include <cuda_runtime_api.h>

#include "kernels/backend.h"

/// The implementations of libmoe_cuda. All enqueue on `stream` and return.
namespace moe::kernels {

void matmul_cuda(const Product& product, cudaStream_t stream);
void permute_cuda(const PermuteArgs& args, cudaStream_t stream);
void unpermute_cuda(const UnpermuteArgs& args, cudaStream_t stream);
void unpermute_gradient_cuda(const UnpermuteGradientArgs& args, cudaStream_t stream);

}  // namespace moe::kernels
