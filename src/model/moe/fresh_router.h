#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "common/rng.h"
#include "model/parameters.h"

namespace moe {

/// [rows, columns] of U(-1 / sqrt(columns), 1 / sqrt(columns)), one number after the other, in float: Kaiming-uniform
/// with a = sqrt(5), as LLaMA-MoE v2's vanilla script draws a router.
at::Tensor kaiming_matrix(int64_t rows, int64_t columns, CounterRng& rng);

/// Draws the matrices of every router anew, those of a conversion with router.init kaiming and this seed; selection
/// biases and gains become 0, where they begin. Of any layout of ranks the same. What is of training alone (the matrix
/// of learned noise) stays.
void draw_routers(std::vector<Parameter>& parameters, uint64_t seed);

}  // namespace moe
