#include "convert/output_scale.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "convert/row_sums.h"

namespace moe {
namespace {

bool is_scale(double value) {
  return std::isfinite(value) && value > 0;
}

/// [T]
at::Tensor l1_norms(const at::Tensor& values_TD) {
  return values_TD.to(at::kDouble).abs().sum(1);
}

}  // namespace

const std::vector<std::string>& scale_modes() {
  static const std::vector<std::string> modes{"least_squares", "n_over_k", "k",   "sqrt_n_over_k", "energy",
                                              "unbiased",      "fixed",    "gap", "per_layer"};
  return modes;
}

bool is_fitted(const v1::ScaleSpec& spec) {
  return spec.mode() == "least_squares" || spec.mode() == "gap";
}

double closed_form_scale(const std::string& mode, int64_t experts, int64_t top_k, double given) {
  const auto n = static_cast<double>(experts), k = static_cast<double>(top_k);
  if (mode == "n_over_k") return n / k;
  if (mode == "k") return k;
  if (mode == "sqrt_n_over_k") return std::sqrt(n / k);
  if (mode == "energy") return std::sqrt(n * k);
  if (mode == "unbiased") return n;
  if (mode == "fixed" || mode == "per_layer") return given;
  std::string known;
  for (const std::string& name : scale_modes()) known += (known.empty() ? "" : ", ") + name;
  throw InvalidArgument(concat("scale.mode '", mode, "'; expected one of ", known));
}

double closed_form_scale(const v1::ScaleSpec& spec, int64_t experts, int64_t top_k, int64_t place) {
  const double given = spec.mode() == "per_layer" ? spec.values(static_cast<int>(place)) : spec.value();
  return closed_form_scale(spec.mode(), experts, top_k, given);
}

void check_scale_spec(const v1::ScaleSpec& spec, int64_t experts, int64_t top_k, int64_t layers,
                      const std::string& section) {
  if (spec.mode() != "per_layer" && !spec.values().empty()) {
    throw InvalidArgument(concat("convert: ", section, ".values has no effect with ", section, ".mode '", spec.mode(),
                                 "'; set ", section, ".mode: per_layer or remove it"));
  }
  if (spec.mode() == "per_layer") {
    if (spec.values_size() != layers) {
      throw InvalidArgument(concat("convert: ", section, ".values has ", spec.values_size(), " numbers for ", layers,
                                   " layers that become experts; give one of each of them, in their order"));
    }
    for (int place = 0; place < spec.values_size(); ++place) {
      if (is_scale(spec.values(place))) continue;
      throw InvalidArgument(
          concat("convert: ", section, ".values.", place, " is ", spec.values(place), "; use a positive number"));
    }
    return;
  }
  if (is_fitted(spec)) return;
  const double scale = closed_form_scale(spec.mode(), experts, top_k, spec.value());
  if (!is_scale(scale))
    throw InvalidArgument(concat("convert: ", section, ".value is ", scale, "; use a positive number"));
}

OutputFit fit_output(const at::Tensor& y_TD, const at::Tensor& s_TD, Communicator& world, const at::Tensor& shared_TD) {
  const at::Tensor y = y_TD.to(at::kDouble), s = s_TD.to(at::kDouble), square_T = y.square().sum(1);
  const at::Tensor whole_T = shared_TD.defined() ? (y + shared_TD.to(at::kDouble)).square().sum(1) : square_T;
  const at::Tensor sums =
      sum_over_tokens(at::stack({(y * s).sum(1), s.square().sum(1), square_T, whole_T}, 1), world, "output scale sums");
  return {sums[0].item<double>(), sums[1].item<double>(), sums[2].item<double>(), sums[3].item<double>()};
}

StreamGap stream_gap(const StreamOutputs& outputs, Communicator& world) {
  const at::Tensor sums =
      sum_over_tokens(at::stack({l1_norms(outputs.dense_stream_TD), l1_norms(outputs.dense_output_TD),
                                 l1_norms(outputs.stream_TD), l1_norms(outputs.output_TD)},
                                1),
                      world, "stream gap sums");
  return {sums[0].item<double>(), sums[1].item<double>(), sums[2].item<double>(), sums[3].item<double>()};
}

}  // namespace moe
