#include "convert/ridge_regression.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common/error.h"

namespace moe {
namespace {

/// Sums over samples of x_i y_j. Tiles of rows and columns stay in the first cache while the samples go by; of a square
/// that is symmetric only tiles that touch the lower triangle are made. [columns of x, columns of y]
std::vector<double> products_of_columns(const at::Tensor& x_TD, const at::Tensor& y_TE, bool lower_only) {
  constexpr int64_t kRows = 32, kColumns = 128;
  const int64_t samples = x_TD.size(0), n = x_TD.size(1), m = y_TE.size(1);
  const float *const x = x_TD.const_data_ptr<float>(), *const y = y_TE.const_data_ptr<float>();
  std::vector<double> sums(n * m, 0);
  at::parallel_for(0, (n + kRows - 1) / kRows, 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first * kRows; row < std::min(n, last * kRows); row += kRows) {
      const int64_t row_end = std::min(n, row + kRows);
      for (int64_t column = 0; column < (lower_only ? row_end : m); column += kColumns) {
        const int64_t column_end = std::min(m, column + kColumns);
        for (int64_t t = 0; t < samples; ++t) {
          for (int64_t i = row; i < row_end; ++i) {
            const double factor = x[t * n + i];
            double* const sum = sums.data() + i * m;
            for (int64_t j = column; j < column_end; ++j) sum[j] += factor * y[t * m + j];
          }
        }
      }
    }
  });
  return sums;
}

/// The Cholesky factor of a positive definite matrix, in place of its lower triangle: panel by panel of columns.
void factorise(std::vector<double>& matrix, int64_t n) {
  constexpr int64_t kPanel = 64;
  std::vector<double> panel(kPanel * n);  // its columns below the diagonal block, as rows
  const auto row = [&](int64_t i) { return matrix.data() + i * n; };
  for (int64_t begin = 0; begin < n; begin += kPanel) {
    const int64_t end = std::min(n, begin + kPanel);
    for (int64_t k = begin; k < end; ++k) {
      MOE_CHECK(row(k)[k] > 0, "ridge_regression: the matrix is not positive definite");
      row(k)[k] = std::sqrt(row(k)[k]);
      for (int64_t i = k + 1; i < end; ++i) row(i)[k] /= row(k)[k];
      for (int64_t i = k + 1; i < end; ++i) {
        for (int64_t j = k + 1; j <= i; ++j) row(i)[j] -= row(i)[k] * row(j)[k];
      }
    }
    at::parallel_for(end, n, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        for (int64_t k = begin; k < end; ++k) {
          for (int64_t j = begin; j < k; ++j) row(i)[k] -= row(i)[j] * row(k)[j];
          row(i)[k] /= row(k)[k];
          panel[(k - begin) * n + i] = row(i)[k];
        }
      }
    });
    at::parallel_for(end, n, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        double* const into = row(i);
        for (int64_t k = begin; k < end; ++k) {
          const double factor = into[k];
          const double* const column = panel.data() + (k - begin) * n;
          for (int64_t j = end; j <= i; ++j) into[j] -= factor * column[j];
        }
      }
    });
  }
}

/// Solves L L^T x = b in place.
void substitute(const std::vector<double>& factor, std::vector<double>& b) {
  const auto n = static_cast<int64_t>(b.size());
  for (int64_t i = 0; i < n; ++i) {
    const double* const row = factor.data() + i * n;
    for (int64_t j = 0; j < i; ++j) b[i] -= row[j] * b[j];
    b[i] /= row[i];
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    const double* const row = factor.data() + i * n;
    b[i] /= row[i];
    for (int64_t j = 0; j < i; ++j) b[j] -= row[j] * b[i];
  }
}

}  // namespace

at::Tensor ridge_regression(const at::Tensor& x_TD, const at::Tensor& y_TE, double ridge) {
  const int64_t n = x_TD.size(1), outputs = y_TE.size(1);
  MOE_CHECK(ridge > 0 && x_TD.size(0) == y_TE.size(0), "ridge_regression: ridge ", ridge, ", samples ", x_TD.size(0),
            " and ", y_TE.size(0));
  std::vector<double> matrix = products_of_columns(x_TD, x_TD, /*lower_only=*/true);
  const std::vector<double> right = products_of_columns(x_TD, y_TE, /*lower_only=*/false);
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += matrix[i * n + i];
  for (int64_t i = 0; i < n; ++i) matrix[i * n + i] += trace > 0 ? ridge * trace / static_cast<double>(n) : 1;
  factorise(matrix, n);
  at::Tensor rows_ED = at::empty({outputs, n}, at::kFloat);
  float* const out = rows_ED.mutable_data_ptr<float>();
  at::parallel_for(0, outputs, 1, [&](int64_t first, int64_t last) {
    for (int64_t e = first; e < last; ++e) {
      std::vector<double> row(n);
      for (int64_t i = 0; i < n; ++i) row[i] = right[i * outputs + e];
      substitute(matrix, row);
      for (int64_t i = 0; i < n; ++i) out[e * n + i] = static_cast<float>(row[i]);
    }
  });
  return rows_ED;
}

}  // namespace moe
