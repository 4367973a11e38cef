#include "checkpoint/tensor_range.h"

#include <functional>
#include <numeric>
#include <utility>

namespace moe {

int64_t elements_of(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

bool TensorRange::is_whole() const {
  return first == 0 && part.numel() == elements_of(shape);
}

TensorRange whole_tensor(std::string name, const at::Tensor& tensor, bool is_written) {
  return {std::move(name), tensor.sizes().vec(), 0, tensor, is_written};
}

void append_logical(std::vector<TensorRange>& ranges, const Parameter& parameter, const at::Tensor& storage,
                    const std::string& suffix, bool is_written) {
  for (const LogicalView& logical : logical_views(parameter, storage))
    ranges.push_back(whole_tensor(logical.name + suffix, logical.view, is_written));
}

}  // namespace moe
