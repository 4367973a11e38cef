#include "model/layer_statistics.h"

#include <algorithm>

#include "model/device.h"

namespace moe {

void LayerStatistics::add(std::string_view name, const at::Tensor& sum, int64_t count) {
  const at::Tensor value = sum.detach().to(at::kDouble);
  const auto known =
      std::find_if(totals_.begin(), totals_.end(), [&](const Total& total) { return total.name == name; });
  if (known == totals_.end()) {
    totals_.push_back({std::string(name), value, count});
    return;
  }
  known->sum = known->sum + value;
  known->count += count;
}

at::Tensor LayerStatistics::totals() const {
  if (totals_.empty()) return at::empty({0, 2}, at::kDouble);
  std::vector<at::Tensor> sums;
  std::vector<double> counts;
  for (const Total& total : totals_) {
    sums.push_back(total.sum);
    counts.push_back(static_cast<double>(total.count));
  }
  const at::Tensor sums_N = at::stack(sums);
  return at::stack({sums_N, on_device(at::tensor(counts, at::kDouble), sums_N.device())}, 1);
}

std::map<std::string, double> LayerStatistics::means(const at::Tensor& totals_N2) const {
  std::map<std::string, double> means;
  const double* value = totals_N2.const_data_ptr<double>();
  for (size_t i = 0; i < totals_.size(); ++i, value += 2) {
    means[totals_[i].name] = value[1] > 0 ? value[0] / value[1] : 0;
  }
  return means;
}

}  // namespace moe
