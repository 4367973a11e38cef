#pragma once

#include <ATen/core/Tensor.h>

namespace moe {

/// The largest singular value of a float matrix over the least, of as many as it has rows; infinity where the rows
/// depend on each other. One-sided Jacobi in float64, in one order, so that it has the same bits everywhere.
double condition_number(const at::Tensor& rows_ED);

}  // namespace moe
