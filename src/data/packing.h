#pragma once

#include <cstdint>
#include <vector>

namespace moe {

/// First-fit-decreasing: puts samples of the given lengths into rows of `capacity` tokens; the longest first, each into
/// the first row that has room (ties: the earlier sample first). Rows come out in the order of their earliest sample,
/// the samples of a row in their own order. O(n log n) by a tree over the rows' free space.
///
/// Every length is from 1 to capacity.
std::vector<std::vector<int64_t>> pack_first_fit_decreasing(const std::vector<int64_t>& lengths, int64_t capacity);

}  // namespace moe
