#include "convert/channel_alignment.h"

#include <functional>

#include "convert/row_sums.h"

namespace moe {
namespace {

constexpr double kLeastVarianceRatio = 1e-12;

using nlohmann::json;

/// Over all tokens of the world, of what `of` makes of a row of text's outputs (in double). [D]
at::Tensor mean_over_tokens(const at::Tensor& y_TD, const TextRows& rows, Communicator& world, const char* op,
                            const std::function<at::Tensor(const at::Tensor& y_tD)>& of) {
  RowSums sums;
  for (int64_t row = 0; row < rows.rows(); ++row) {
    const at::Tensor y_tD = y_TD.slice(0, rows.row_begin[row], rows.row_begin[row + 1]).to(at::kDouble);
    sums.add(rows.first_row + row, of(y_tD).sum(0));
  }
  return sums.total({y_TD.size(1)}, world, op) / static_cast<double>(rows.total_tokens);
}

json range_of(const at::Tensor& values_D) {
  // Summed one by one: in the same order at any number of threads.
  const at::Tensor values = values_D.contiguous();
  const auto* const first = values.const_data_ptr<double>();
  double sum = 0;
  for (int64_t i = 0; i < values.numel(); ++i) sum += first[i];
  return {{"least", values.min().item<double>()},
          {"mean", sum / static_cast<double>(values.numel())},
          {"greatest", values.max().item<double>()}};
}

}  // namespace

ChannelStatistics channel_statistics(const at::Tensor& y_TD, const TextRows& rows, Communicator& world) {
  const at::Tensor mean_D =
      mean_over_tokens(y_TD, rows, world, "channel means", [](const at::Tensor& y_tD) { return y_tD; });
  const at::Tensor variance_D = mean_over_tokens(y_TD, rows, world, "channel variances",
                                                 [&](const at::Tensor& y_tD) { return (y_tD - mean_D).square(); });
  return {mean_D, variance_D};
}

at::Tensor ChannelAlignment::scale_rows(const at::Tensor& down_DI) const {
  return down_DI.to(at::kDouble) * factor_D.unsqueeze(1);
}

at::Tensor ChannelAlignment::align(const at::Tensor& y_TD, const at::Tensor& bias_D) const {
  const at::Tensor old_D = bias_D.defined() ? bias_D.to(at::kDouble) : at::zeros_like(factor_D);
  const at::Tensor new_D = output_bias_D.defined() ? output_bias_D : old_D;
  return at::addcmul((new_D - factor_D * old_D).to(y_TD.scalar_type()), y_TD, factor_D.to(y_TD.scalar_type()));
}

json ChannelAlignment::describe() const {
  json report = {{"factor", range_of(factor_D)}};
  if (output_bias_D.defined()) report["bias"] = range_of(output_bias_D);
  if (kept_channels > 0) report["kept_channels"] = kept_channels;
  return report;
}

ChannelAlignment alignment_to(const ChannelStatistics& dense, const ChannelStatistics& converted,
                              const at::Tensor& bias_D, const std::string& mode) {
  const at::Tensor is_still_D = converted.variance_D <= kLeastVarianceRatio * dense.variance_D;
  ChannelAlignment alignment;
  alignment.factor_D =
      at::where(is_still_D, at::ones_like(dense.variance_D), (dense.variance_D / converted.variance_D).sqrt());
  alignment.kept_channels = is_still_D.sum().item<int64_t>();
  if (mode != "mean_variance") return alignment;
  const at::Tensor mean_D = bias_D.defined() ? converted.mean_D - bias_D.to(at::kDouble) : converted.mean_D;
  alignment.output_bias_D = dense.mean_D - alignment.factor_D * mean_D;
  return alignment;
}

}  // namespace moe
