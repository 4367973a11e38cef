#include "checkpoint/finite.h"

#include <algorithm>

#include "common/error.h"

namespace moe {
namespace {

/// Values whose exponent bits are all set.
template <typename Word>
int64_t count_non_finite(const at::Tensor& tensor, Word exponent) {
  const auto* const data = static_cast<const Word*>(tensor.const_data_ptr());
  constexpr int64_t kBlock = 4096;
  int64_t bad = 0;
  for (int64_t first = 0; first < tensor.numel(); first += kBlock) {
    const int64_t last = std::min(first + kBlock, tensor.numel());
    Word any = 0;
    for (int64_t i = first; i < last; ++i) any |= static_cast<Word>((data[i] & exponent) == exponent);
    if (any == 0) continue;
    bad += std::count_if(data + first, data + last, [exponent](Word word) { return (word & exponent) == exponent; });
  }
  return bad;
}

}  // namespace

int64_t count_non_finite(const at::Tensor& values) {
  MOE_CHECK(values.device().is_cpu(), "values are looked at on the CPU");
  const at::Tensor tensor = values.contiguous();
  switch (tensor.scalar_type()) {
    case at::kBFloat16: return count_non_finite<uint16_t>(tensor, 0x7f80);
    case at::kHalf: return count_non_finite<uint16_t>(tensor, 0x7c00);
    case at::kFloat: return count_non_finite<uint32_t>(tensor, 0x7f800000);
    case at::kDouble: return count_non_finite<uint64_t>(tensor, 0x7ff0000000000000);
    default: return 0;
  }
}

}  // namespace moe
