// The matrix product of cuBLASLt, as far as the project calls it: column-major, summed in double, rounded once. What it
// does not know it refuses. As on a GPU the product is work of its stream, and its workspace is written.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <cstring>
#include <vector>

#include "cuda_host/streams.h"

namespace {

constexpr size_t kWorkspaceBytes = 4096;  // asked for so that callers' workspaces are exercised

struct Description {
  cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
  cudaDataType_t scale;
};

struct Layout {
  cudaDataType_t type;
  uint64_t rows, cols;
  int64_t stride;
};

const Layout& layout_of(cublasLtMatrixLayout_t layout) {
  return *reinterpret_cast<const Layout*>(layout);
}

double element(const void* data, cudaDataType_t type, size_t at) {
  switch (type) {
    case CUDA_R_64F: return static_cast<const double*>(data)[at];
    case CUDA_R_32F: return static_cast<const float*>(data)[at];
    default: return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at]);
  }
}

void put(void* data, cudaDataType_t type, size_t at, double value) {
  switch (type) {
    case CUDA_R_64F: static_cast<double*>(data)[at] = value; break;
    case CUDA_R_32F: static_cast<float*>(data)[at] = static_cast<float>(value); break;
    default: static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16_rn(static_cast<float>(value));
  }
}

/// The operand as [outer, inner], rows without gaps, so that a sum runs over neighbours.
std::vector<double> widened(const void* data, const Layout& layout, bool inner_is_cols) {
  const uint64_t outer = inner_is_cols ? layout.rows : layout.cols;
  const uint64_t inner = inner_is_cols ? layout.cols : layout.rows;
  std::vector<double> values(outer * inner);
  for (uint64_t o = 0; o < outer; ++o) {
    for (uint64_t i = 0; i < inner; ++i) {
      const size_t row = inner_is_cols ? o : i, col = inner_is_cols ? i : o;
      values[o * inner + i] = element(data, layout.type, row + col * static_cast<size_t>(layout.stride));
    }
  }
  return values;
}

struct Product {
  const void *a, *b, *c;
  void* d;
  Layout a_layout, b_layout, c_layout, d_layout;
  bool transpose_a, transpose_b;
  double alpha, beta;
};

void multiply(const Product& p) {
  const std::vector<double> a = widened(p.a, p.a_layout, !p.transpose_a);
  const std::vector<double> b = widened(p.b, p.b_layout, p.transpose_b);
  const uint64_t k = p.transpose_a ? p.a_layout.rows : p.a_layout.cols;
  for (uint64_t j = 0; j < p.d_layout.cols; ++j) {
    for (uint64_t i = 0; i < p.d_layout.rows; ++i) {
      double sum = 0;
      for (uint64_t l = 0; l < k; ++l) sum += a[i * k + l] * b[j * k + l];
      const size_t c_at = i + j * static_cast<size_t>(p.c_layout.stride);
      const double before = p.beta == 0 ? 0 : p.beta * element(p.c, p.c_layout.type, c_at);
      put(p.d, p.d_layout.type, i + j * static_cast<size_t>(p.d_layout.stride), p.alpha * sum + before);
    }
  }
}

double scalar(const void* value, cudaDataType_t type) {
  return type == CUDA_R_64F ? *static_cast<const double*>(value) : *static_cast<const float*>(value);
}

bool is_product(const Product& p) {
  const auto [m, k] =
      p.transpose_a ? std::pair(p.a_layout.cols, p.a_layout.rows) : std::pair(p.a_layout.rows, p.a_layout.cols);
  const auto [k_b, n] =
      p.transpose_b ? std::pair(p.b_layout.cols, p.b_layout.rows) : std::pair(p.b_layout.rows, p.b_layout.cols);
  return k == k_b && m == p.d_layout.rows && n == p.d_layout.cols && m == p.c_layout.rows && n == p.c_layout.cols;
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  static int one_for_all;  // it has no state
  *handle = reinterpret_cast<cublasLtHandle_t>(&one_for_all);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t, cudaDataType_t scale) {
  if (scale != CUDA_R_32F && scale != CUDA_R_64F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *desc = reinterpret_cast<cublasLtMatmulDesc_t>(new Description{.scale = scale});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete reinterpret_cast<Description*>(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  auto& description = *reinterpret_cast<Description*>(desc);
  if (bytes != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: std::memcpy(&description.a, value, bytes); break;
    case CUBLASLT_MATMUL_DESC_TRANSB: std::memcpy(&description.b, value, bytes); break;
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t cols, int64_t stride) {
  if (type != CUDA_R_64F && type != CUDA_R_32F && type != CUDA_R_16BF) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (stride < static_cast<int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, cols, stride});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete reinterpret_cast<Layout*>(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  static int one_for_all;  // there is one algorithm, whatever is preferred
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(&one_for_all);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  *results = {};
  results->state = CUBLAS_STATUS_SUCCESS;
  results->workspaceSize = kWorkspaceBytes;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t*, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  const auto& description = *reinterpret_cast<const Description*>(desc);
  const Product product{.a = a,
                        .b = b,
                        .c = c,
                        .d = d,
                        .a_layout = layout_of(a_layout),
                        .b_layout = layout_of(b_layout),
                        .c_layout = layout_of(c_layout),
                        .d_layout = layout_of(d_layout),
                        .transpose_a = description.a != CUBLAS_OP_N,
                        .transpose_b = description.b != CUBLAS_OP_N,
                        .alpha = scalar(alpha, description.scale),
                        .beta = scalar(beta, description.scale)};
  if (!is_product(product) || workspace == nullptr || workspace_bytes < kWorkspaceBytes) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  moe::cuda_host::enqueue(stream, [=] {
    std::memset(workspace, 0xff, workspace_bytes);
    multiply(product);
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
