#pragma once

#include <vector>

#include "model/parameters.h"
#include "parallel/mesh.h"

namespace moe {

/// Sums the gradients of all ranks into every rank's `.grad`: dense parameters over the world, experts over the ranks
/// that hold the same ones. A gradient that a rank did not make counts as zero where another rank made it, and is made;
/// one that no rank made stays undefined on all. Flat buckets in the order of the parameters: few collectives, a fixed
/// order of summation.
///
/// Cost     twice the bytes of the parameters per rank on the wire, (n - 1) / n of them leaving it; one number a
/// parameter.
void sum_gradients(std::vector<Parameter>& parameters, Mesh& mesh);

/// sqrt of the sum of squares of all gradients of the model, each expert counted once, in double, without a copy of
/// any. After sum_gradients. The same bits on every rank and, for the same gradients, in every layout: sums are by
/// parameter and by expert, added in the order of parameters and global ids.
double global_gradient_norm(const std::vector<Parameter>& parameters, Mesh& mesh);

}  // namespace moe
