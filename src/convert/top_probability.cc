#include "convert/top_probability.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>

#include "comm/agreement.h"
#include "common/error.h"

namespace moe {
namespace {

/// `gaps_TE`: what logits are below the largest of their token; double, contiguous.
double mean_top_probability(const at::Tensor& gaps_TE, double factor) {
  const auto* gap = gaps_TE.const_data_ptr<double>();
  double mean = 0;
  for (int64_t t = 0; t < gaps_TE.size(0); ++t) {
    double sum = 0;
    for (int64_t e = 0; e < gaps_TE.size(1); ++e) sum += std::exp(-factor * *gap++);
    mean += 1 / sum;
  }
  return mean / static_cast<double>(gaps_TE.size(0));
}

}  // namespace

double factor_to_top_probability(const at::Tensor& logits_TE, double target, const std::string& wanted_by,
                                 Communicator& world) {
  constexpr double kEndless = 1e300;  // no expert beside the largest has any probability
  constexpr int kHalvings = 60;
  const at::Tensor all_TE = world.all_gather(logits_TE.to(at::kDouble).contiguous(), "router logits");
  const at::Tensor gaps_TE = (all_TE.amax(1, /*keepdim=*/true) - all_TE).contiguous();
  const double least = 1 / static_cast<double>(gaps_TE.size(1)), most = mean_top_probability(gaps_TE, kEndless);
  if (!(target > least && target < most)) {
    throw_agreed<InvalidArgument>(concat("convert: ", wanted_by, " is ", target,
                                         ", and on these tokens the likeliest of experts ", gaps_TE.size(1),
                                         " can have a mean probability between ", least, " and ", most));
  }
  double low = 0, high = 1;
  while (mean_top_probability(gaps_TE, high) < target) high *= 2;
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (low + high) / 2;
    (mean_top_probability(gaps_TE, middle) < target ? low : high) = middle;
  }
  return high;
}

}  // namespace moe
