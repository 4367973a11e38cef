#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "common/rng.h"

namespace moe::testing {

/// Standard normal numbers of the own stream of `seed` and `substream`, the same in every dtype up to rounding.
inline at::Tensor random_normal(const std::vector<int64_t>& shape, uint64_t seed, at::ScalarType dtype = at::kDouble,
                                uint32_t substream = 0) {
  at::Tensor values = at::empty(shape, at::kDouble);
  double* const data = values.mutable_data_ptr<double>();
  CounterRng rng(seed, kStreamTest, substream);
  for (int64_t i = 0; i < values.numel(); ++i) data[i] = rng.normal();
  return values.to(dtype);
}

}  // namespace moe::testing
