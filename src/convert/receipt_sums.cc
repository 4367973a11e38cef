#include "convert/receipt_sums.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace moe {

double sum_one_by_one(const at::Tensor& values_t) {
  const at::Tensor values = values_t.to(at::kDouble).contiguous();
  const auto* const first = values.const_data_ptr<double>();
  return std::accumulate(first, first + values.numel(), 0.0);  // one by one: in the same order at any number of threads
}

double sum_of_squares(const at::Tensor& values_tD) {
  return sum_one_by_one(values_tD.to(at::kDouble).square().sum(1));
}

double share_of(double part, double whole) {
  return whole == 0 ? 0 : part / whole;
}

double deviation_of(double sum, double sum_of_squares, double count) {
  const double mean = sum / count, square = sum_of_squares / count;
  return std::sqrt(std::max(0.0, square - mean * mean));
}

nlohmann::json load_report(const at::Tensor& load_E, const std::string& op, Communicator& world) {
  at::Tensor load = load_E.contiguous().clone();
  world.all_reduce_sum(load, op);
  const std::vector<int64_t> counts(load.const_data_ptr<int64_t>(), load.const_data_ptr<int64_t>() + load.numel());
  const double even = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0})) /
                      static_cast<double>(counts.size());
  const auto [least, greatest] = std::minmax_element(counts.begin(), counts.end());
  return {{"expert_load", counts},
          {"least_load", static_cast<double>(*least) / even},
          {"greatest_load", static_cast<double>(*greatest) / even}};
}

}  // namespace moe
