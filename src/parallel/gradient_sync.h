#pragma once

#include <vector>

#include "model/parameters.h"
#include "parallel/mesh.h"

namespace moe {

/// Sums the gradients of all ranks into every rank's `.grad`: dense parameters over the world, experts over the ranks
/// that hold the same ones. A gradient that was never made counts as zero and is made. Flat buckets in the order of the
/// parameters: few collectives, a fixed order of summation.
///
/// Cost     twice the bytes of the parameters per rank on the wire, (n - 1) / n of them leaving it.
void sum_gradients(std::vector<Parameter>& parameters, Mesh& mesh);

/// sqrt of the sum of squares of all gradients of the model, each expert counted once; the same bits on every rank. In
/// double. After sum_gradients.
double global_gradient_norm(const std::vector<Parameter>& parameters, Mesh& mesh);

}  // namespace moe
