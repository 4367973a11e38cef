#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "comm/communicator.h"

// T rows, C columns.
namespace moe {

/// The rank-th largest (1: the largest) value of each column over the rows of all parts of all ranks, exactly: the same
/// bits whichever ranks and parts the rows lie in. By radix selection: no rank sees another's values, only how many of
/// them begin with which bits.
///
/// Shapes   parts [T, C] float or double, alike in C and type, at least one on every rank; T may be 0 -> [C].
/// Cost     a sum of [C, 256] int64 over the ranks for each byte of the type; the values are read as often.
/// Throws   Internal if there are less rows than `rank`, or NaN where values are counted on.
at::Tensor ranked_of_columns(const std::vector<at::Tensor>& parts_TC, int64_t rank, Communicator& world);

}  // namespace moe
