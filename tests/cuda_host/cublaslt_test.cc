// The product of cuBLASLt against a naive one in double, in the layouts and types that the project asks for.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cuda_host/device_array.h"

namespace moe::cuda_host::testing {
namespace {

constexpr cudaDataType_t type_of(float) {
  return CUDA_R_32F;
}
constexpr cudaDataType_t type_of(double) {
  return CUDA_R_64F;
}
constexpr cudaDataType_t type_of(__nv_bfloat16) {
  return CUDA_R_16BF;
}

/// A column-major matrix whose columns lie `stride` elements apart.
template <typename T>
struct Matrix {
  uint64_t rows, cols;
  int64_t stride;
  std::vector<T> values;

  Matrix(uint64_t rows, uint64_t cols, unsigned seed)
      : rows(rows), cols(cols), stride(static_cast<int64_t>(rows) + 3), values(cols * static_cast<size_t>(stride)) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (T& value : values) value = T(uniform(random));
  }
  double at(uint64_t i, uint64_t j) const { return static_cast<double>(static_cast<float>(values[index(i, j)])); }
  size_t index(uint64_t i, uint64_t j) const { return i + j * static_cast<size_t>(stride); }
  cublasLtMatrixLayout_t layout() const {
    cublasLtMatrixLayout_t made = nullptr;
    EXPECT_EQ(cublasLtMatrixLayoutCreate(&made, type_of(T{}), rows, cols, stride), CUBLAS_STATUS_SUCCESS);
    return made;
  }
};

template <typename T, typename Scale>
void expect_product(bool transpose_a, bool transpose_b, Scale alpha, Scale beta, double tolerance) {
  constexpr uint64_t kM = 5, kN = 7, kK = 9;
  const Matrix<T> a(transpose_a ? kK : kM, transpose_a ? kM : kK, 1),
      b(transpose_b ? kN : kK, transpose_b ? kK : kN, 2), c(kM, kN, 3);
  const DeviceArray<T> device_a(a.values), device_b(b.values), device_c(c.values);
  const DeviceArray<char> workspace(4096);
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  ASSERT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, type_of(Scale{})), CUBLAS_STATUS_SUCCESS);
  const cublasOperation_t op_a = transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N,
                          op_b = transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof(op_a));
  cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof(op_b));
  const cublasLtMatrixLayout_t layouts[] = {a.layout(), b.layout(), c.layout()};
  const auto multiply = [&](void* scratch, const cublasLtMatrixLayout_t& b_layout) {
    return cublasLtMatmul(handle, desc, &alpha, device_a.data(), layouts[0], device_b.data(), b_layout, &beta,
                          device_c.data(), layouts[2], device_c.data(), layouts[2], nullptr, scratch, 4096, nullptr);
  };
  EXPECT_EQ(multiply(nullptr, layouts[1]), CUBLAS_STATUS_INVALID_VALUE) << "without the workspace that was asked for";
  EXPECT_EQ(multiply(workspace.data(), layouts[2]), CUBLAS_STATUS_INVALID_VALUE) << "shapes that disagree";
  ASSERT_EQ(multiply(workspace.data(), layouts[1]), CUBLAS_STATUS_SUCCESS);
  Matrix<T> got = c;
  got.values = device_c.values();
  for (uint64_t j = 0; j < kN; ++j) {
    for (uint64_t i = 0; i < kM; ++i) {
      double sum = 0;
      for (uint64_t k = 0; k < kK; ++k) {
        sum += (transpose_a ? a.at(k, i) : a.at(i, k)) * (transpose_b ? b.at(j, k) : b.at(k, j));
      }
      const double expected = static_cast<double>(alpha) * sum + static_cast<double>(beta) * c.at(i, j);
      EXPECT_NEAR(got.at(i, j), expected, tolerance * (1 + std::abs(expected))) << i << ", " << j;
    }
    for (int64_t i = kM; i < c.stride; ++i) {
      const size_t gap = static_cast<size_t>(i) + j * static_cast<size_t>(c.stride);
      EXPECT_EQ(static_cast<float>(got.values[gap]), static_cast<float>(c.values[gap])) << "between the columns";
    }
  }
  for (const cublasLtMatrixLayout_t layout : layouts) cublasLtMatrixLayoutDestroy(layout);
  cublasLtMatmulDescDestroy(desc);
}

TEST(CublasLtTest, ProductsEqualANaiveOneInDouble) {
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      expect_product<float, float>(transpose_a, transpose_b, 1, 0, 1e-7);
      expect_product<double, double>(transpose_a, transpose_b, 0.5, -2, 1e-7);
      expect_product<__nv_bfloat16, float>(transpose_a, transpose_b, 1, 1, 1.0 / 256);
    }
  }
}

TEST(CublasLtTest, RefusesWhatItDoesNotKnow) {
  cublasLtMatmulDesc_t desc = nullptr;
  EXPECT_EQ(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_16F), CUBLAS_STATUS_NOT_SUPPORTED);
  ASSERT_EQ(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  const cublasLtEpilogue_t bias = CUBLASLT_EPILOGUE_BIAS;
  EXPECT_EQ(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &bias, sizeof(bias)),
            CUBLAS_STATUS_NOT_SUPPORTED);
  cublasLtMatmulDescDestroy(desc);
  cublasLtMatrixLayout_t layout = nullptr;
  EXPECT_EQ(cublasLtMatrixLayoutCreate(&layout, CUDA_R_32F, 8, 2, 7), CUBLAS_STATUS_INVALID_VALUE) << "columns overlap";
  EXPECT_EQ(cublasLtMatrixLayoutCreate(&layout, CUDA_R_8I, 8, 2, 8), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_STREQ(cublasLtGetStatusName(CUBLAS_STATUS_NOT_SUPPORTED), "CUBLAS_STATUS_NOT_SUPPORTED");
}

}  // namespace
}  // namespace moe::cuda_host::testing
