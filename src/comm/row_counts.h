#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string_view>

/// Rows of tensors by rank, as collectives take them.
namespace moe {

/// Throws Internal unless there is one count for each of `ranks` and none is negative.
void require_counts(std::span<const int64_t> counts, int ranks, std::string_view op);

/// And unless they sum to `all`.
void require_counts(std::span<const int64_t> counts, int ranks, int64_t all, std::string_view op);

/// `rows` rows of `like`, uninitialised.
at::Tensor empty_rows(const at::Tensor& like, int64_t rows);

}  // namespace moe
