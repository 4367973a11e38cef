#include "convert/output_scale.h"

#include <cmath>

#include "common/error.h"
#include "convert/row_sums.h"

namespace moe {

double closed_form_scale(const std::string& mode, int64_t experts, int64_t top_k, double fixed) {
  const auto n = static_cast<double>(experts), k = static_cast<double>(top_k);
  if (mode == "n_over_k") return n / k;
  if (mode == "k") return k;
  if (mode == "energy") return std::sqrt(n * k);
  if (mode == "unbiased") return n;
  if (mode == "fixed") return fixed;
  throw InvalidArgument(
      concat("scale.mode '", mode, "'; expected least_squares, n_over_k, k, energy, unbiased or fixed"));
}

OutputFit fit_output(const at::Tensor& y_TD, const at::Tensor& s_TD, Communicator& world, const at::Tensor& shared_TD) {
  const at::Tensor y = y_TD.to(at::kDouble), s = s_TD.to(at::kDouble), square_T = y.square().sum(1);
  const at::Tensor whole_T = shared_TD.defined() ? (y + shared_TD.to(at::kDouble)).square().sum(1) : square_T;
  const at::Tensor sums =
      sum_over_tokens(at::stack({(y * s).sum(1), s.square().sum(1), square_T, whole_T}, 1), world, "output scale sums");
  return {sums[0].item<double>(), sums[1].item<double>(), sums[2].item<double>(), sums[3].item<double>()};
}

}  // namespace moe
