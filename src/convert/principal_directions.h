#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "comm/communicator.h"

namespace moe {

/// Directions in which rows vary most about their mean, at right angles to each other, at length 1, the widest first:
/// eigenvectors of the covariance. Of each the component of the largest magnitude is positive. `across_mean`: of rows
/// less what lies along their mean, so that products with the rows have the mean 0. As many as `most`, or as there are:
/// fewer than n, at most D. The same bits on every rank and at any number of ranks and threads. Collective; `rows_nD`
/// is the same on every rank, float. [directions, D] float
/// Cost     on rank 0: n D^2 products and sums; all eigenvectors of a matrix [D, D], on one thread.
at::Tensor principal_directions(const at::Tensor& rows_nD, int64_t most, bool across_mean, Communicator& world);

}  // namespace moe
