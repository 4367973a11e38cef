// Norms of rows and their gradients, on every device and dtype, against their formulas in double.
#include "kernels/norms.h"

#include "kernels/row_cases.h"

namespace moe::kernels::testing {
namespace {

class NormsTest : public RowCaseTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, NormsTest, row_cases(DeviceType::kCpu), row_case_name);
INSTANTIATE_TEST_SUITE_P(Cuda, NormsTest, row_cases(DeviceType::kCuda), row_case_name);

constexpr double kEps = 0.0078125;

/// One row's share of what a test expects.
struct NormRow {
  double mean = 0, mean_magnitude = 0, inverse = 0;

  /// (x - mean) * inverse, and its magnitude before the difference is taken.
  Expected normed(double x) const { return {(x - mean) * inverse, (std::abs(x) + mean_magnitude) * inverse}; }
};

NormRow norm_row(const double* x, int64_t width, bool is_centred) {
  NormRow row;
  for (int64_t i = 0; is_centred && i < width; ++i) {
    row.mean += x[i] / static_cast<double>(width);
    row.mean_magnitude += std::abs(x[i]) / static_cast<double>(width);
  }
  double squares = 0;
  for (int64_t i = 0; i < width; ++i) squares += (x[i] - row.mean) * (x[i] - row.mean);
  row.inverse = 1 / std::sqrt(squares / static_cast<double>(width) + kEps);
  return row;
}

struct NormResults {
  std::vector<Expected> y, mean, inverse, dx, dweight, dbias;
};

/// Both norms: RMSNorm is the one without a mean, a shift and a bias.
NormResults in_double(const RowShape& shape, bool is_centred, const std::vector<double>& x,
                      const std::vector<double>& weight, const std::vector<double>& bias,
                      const std::vector<double>& dy) {
  const auto [rows, width] = shape;
  NormResults results;
  results.dweight.resize(width);
  results.dbias.resize(width);
  for (int64_t r = 0; r < rows; ++r) {
    const double *const x_r = x.data() + r * width, *const dy_r = dy.data() + r * width;
    const NormRow row = norm_row(x_r, width, is_centred);
    results.mean.push_back({row.mean, row.mean_magnitude});
    results.inverse.push_back({row.inverse, row.inverse});
    Expected shift, projection;
    for (int64_t i = 0; i < width; ++i) {
      const Expected normed = row.normed(x_r[i]);
      results.y.push_back(
          {normed.value * weight[i] + bias[i], normed.magnitude * std::abs(weight[i]) + std::abs(bias[i])});
      const double slope = dy_r[i] * weight[i] / static_cast<double>(width);
      if (is_centred) add(shift, slope);
      projection.value += slope * normed.value;
      projection.magnitude += std::abs(slope) * normed.magnitude;
      results.dweight[i].value += dy_r[i] * normed.value;
      results.dweight[i].magnitude += std::abs(dy_r[i]) * normed.magnitude;
      add(results.dbias[i], dy_r[i]);
    }
    for (int64_t i = 0; i < width; ++i) {
      const Expected normed = row.normed(x_r[i]);
      const double slope = dy_r[i] * weight[i];
      results.dx.push_back(
          {(slope - shift.value - normed.value * projection.value) * row.inverse,
           (std::abs(slope) + shift.magnitude + normed.magnitude * projection.magnitude) * row.inverse});
    }
  }
  return results;
}

TEST_P(NormsTest, RmsNormAndItsGradientsEqualTheFormula) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [T, D] = shape;
  const DType sums = sum_dtype(dtype);
  const std::vector<double> x_TD = scaled_values(T * D, dtype, 1, 2), weight_D = random_values(D, dtype, 2),
                            dy_TD = random_values(T * D, dtype, 3), none(static_cast<size_t>(D), 0);
  const NormResults expected = in_double(shape, false, x_TD, weight_D, none, dy_TD);
  TestMatrix x(device, dtype, T, D, 3, x_TD), weight(device, dtype, 1, D, 0, weight_D),
      dy(device, dtype, T, D, 1, dy_TD);
  TestMatrix y(device, dtype, T, D, 2), inverse(device, sums, 1, T, 0), dx(device, dtype, T, D, 5),
      dweight(device, dtype, 1, D, 0);
  const Queue queue = queue_on(device);

  rms_norm(x.view(), weight.vector(), kEps, y.view(), inverse.vector(), queue);
  expect_close("y", y.values(), expected.y, dtype);
  expect_close("inverse", inverse.values(), expected.inverse, sums);
  rms_norm_gradient(dy.view(), x.view(), weight.vector(), inverse.vector(), dx.view(), dweight.vector(), queue);
  expect_close("dx", dx.values(), expected.dx, dtype);
  expect_close("dweight", dweight.values(), expected.dweight, dtype);
  TestMatrix alone(device, dtype, T, D, 0);
  rms_norm_gradient(dy.view(), x.view(), weight.vector(), inverse.vector(), alone.view(), {}, queue);
  EXPECT_EQ(alone.bytes(), dx.bytes()) << "dweight is not wanted";
}

TEST_P(NormsTest, LayerNormAndItsGradientsEqualTheFormula) {
  const auto& [device, dtype, shape] = GetParam();
  MOE_SKIP_WITHOUT(device);
  const auto [T, D] = shape;
  const DType sums = sum_dtype(dtype);
  const std::vector<double> x_TD = scaled_values(T * D, dtype, 1, 2), weight_D = random_values(D, dtype, 2),
                            bias_D = random_values(D, dtype, 4), dy_TD = random_values(T * D, dtype, 3);
  NormResults expected = in_double(shape, true, x_TD, weight_D, bias_D, dy_TD);
  TestMatrix x(device, dtype, T, D, 3, x_TD), weight(device, dtype, 1, D, 0, weight_D),
      bias(device, dtype, 1, D, 0, bias_D), dy(device, dtype, T, D, 1, dy_TD);
  TestMatrix y(device, dtype, T, D, 2), mean(device, sums, 1, T, 0), inverse(device, sums, 1, T, 0),
      dx(device, dtype, T, D, 5), dboth(device, dtype, 2, D, 0);
  const Queue queue = queue_on(device);

  layer_norm(x.view(), weight.vector(), bias.vector(), kEps, y.view(), mean.vector(), inverse.vector(), queue);
  expect_close("y", y.values(), expected.y, dtype);
  expect_close("mean", mean.values(), expected.mean, sums);
  expect_close("inverse", inverse.values(), expected.inverse, sums);
  layer_norm_gradient(dy.view(), x.view(), weight.vector(), mean.vector(), inverse.vector(), dx.view(), dboth.vector(),
                      queue);
  expect_close("dx", dx.values(), expected.dx, dtype);
  expected.dweight.insert(expected.dweight.end(), expected.dbias.begin(), expected.dbias.end());
  expect_close("dweight, dbias", dboth.values(), expected.dweight, dtype);
  TestMatrix alone(device, dtype, T, D, 0);
  layer_norm_gradient(dy.view(), x.view(), weight.vector(), mean.vector(), inverse.vector(), alone.view(), {}, queue);
  EXPECT_EQ(alone.bytes(), dx.bytes()) << "dweight_dbias is not wanted";
}

}  // namespace
}  // namespace moe::kernels::testing
