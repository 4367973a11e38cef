#include "eval/text_sums.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

namespace moe {

double* TextSums::of(int64_t row, size_t domain) {
  return sums_.try_emplace({row, domain}, values_, 0.0).first->second.data();
}

std::vector<std::vector<double>> TextSums::total(Communicator& world, std::string_view op) const {
  const auto count = static_cast<int64_t>(sums_.size()), values = static_cast<int64_t>(values_);
  at::Tensor places_N2 = at::empty({count, 2}, at::kLong), sums_NV = at::empty({count, values}, at::kDouble);
  auto* place = places_N2.mutable_data_ptr<int64_t>();
  auto* sum = sums_NV.mutable_data_ptr<double>();
  for (const auto& [key, mine] : sums_) {
    *place++ = key.first;
    *place++ = static_cast<int64_t>(key.second);
    sum = std::copy(mine.begin(), mine.end(), sum);
  }
  places_N2 = world.all_gather(places_N2, std::string(op) + " (places)").contiguous();
  sums_NV = world.all_gather(sums_NV, op).contiguous();

  const auto* const places = places_N2.const_data_ptr<int64_t>();
  std::vector<int64_t> order(places_N2.size(0));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return std::pair(places[2 * a], places[2 * a + 1]) < std::pair(places[2 * b], places[2 * b + 1]);
  });
  std::vector<std::vector<double>> total(domains_, std::vector<double>(values_, 0.0));
  for (const int64_t i : order) {
    std::vector<double>& domain = total[places[2 * i + 1]];
    const double* value = sums_NV.const_data_ptr<double>() + i * values;
    for (double& into : domain) into += *value++;
  }
  return total;
}

std::vector<double> over_domains(const std::vector<std::vector<double>>& by_domain) {
  std::vector<double> all(by_domain.empty() ? 0 : by_domain.front().size(), 0.0);
  for (const std::vector<double>& domain : by_domain) {
    for (size_t i = 0; i < all.size(); ++i) all[i] += domain[i];
  }
  return all;
}

}  // namespace moe
