#include "kernels/backend.h"
#include "kernels/matmul_cpu.h"
#include "kernels/permute_cpu.h"

namespace moe::kernels {

const Backend kCpuBackend{
    .matmul = [](const Product& product, void*) { matmul_cpu(product); },
    .permute = [](const PermuteArgs& args, void*) { permute_cpu(args); },
    .unpermute = [](const UnpermuteArgs& args, void*) { unpermute_cpu(args); },
    .unpermute_gradient = [](const UnpermuteGradientArgs& args, void*) { unpermute_gradient_cpu(args); },
    .device_count = [] { return 1; },
};

}  // namespace moe::kernels
