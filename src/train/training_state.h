#pragma once

#include <vector>

#include "checkpoint/tensor_range.h"
#include "parallel/mesh.h"
#include "train/optimizer.h"

namespace moe {

/// What a checkpoint holds of weights and optimizer on this rank: every weight under its own name and, of what is
/// trained, its two moments under it with ".m" and ".v". Rank 0 writes what all ranks hold, the first of the ranks that
/// hold the same experts writes those. The ranges refer to the tensors.
std::vector<TensorRange> training_state(const std::vector<Parameter>& parameters, AdamW& optimizer, const Mesh& mesh);

}  // namespace moe
