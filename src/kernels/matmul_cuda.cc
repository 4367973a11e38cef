// The matrix product on CUDA through cuBLASLt. cuBLASLt sees column-major matrices: a row-major c[m, n] is its
// transpose there, so the product asked for is c^T[n, m] = b^T[n, k] a^T[k, m].
#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "common/error.h"
#include "kernels/cuda_check.h"
#include "kernels/cuda_kernels.h"
#include "kernels/cuda_workspace.h"
#include "kernels/lru_cache.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

/// What cuBLASLt may use on top of its operands; NVIDIA recommends 32 MiB for Hopper.
constexpr size_t kMaxWorkspaceBytes = size_t{32} << 20;

/// Algorithms kept, by shape. One takes tens of microseconds to pick and 100 bytes to keep.
constexpr size_t kMaxAlgorithms = 8192;

template <typename Handle, cublasStatus_t (*destroy)(Handle)>
struct Destroy {
  void operator()(Handle handle) const { destroy(handle); }
};
using MatmulDesc =
    std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>>;
using Layout =
    std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>>;
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t,
                                   Destroy<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>>;

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return CUDA_R_32F;
    case DType::kBFloat16: return CUDA_R_16BF;
    case DType::kFloat64: return CUDA_R_64F;
  }
  throw InvalidArgument(concat("unknown dtype ", static_cast<int>(dtype)));
}

int current_device() {
  int device = 0;
  MOE_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

/// One handle per device, made at first use; several threads may use it at once. They live until the process ends, when
/// the driver takes everything back: destroying them then would call a CUDA runtime that may be gone already.
cublasLtHandle_t handle_of(int device) {
  static std::mutex mutex;
  static std::vector<cublasLtHandle_t> handles;
  const std::lock_guard<std::mutex> lock(mutex);
  if (handles.size() <= static_cast<size_t>(device)) {
    handles.resize(device + 1, nullptr);
  }
  if (handles[device] == nullptr) {
    MOE_CUBLAS_CHECK(cublasLtCreate(&handles[device]));
  }
  return handles[device];
}

/// An operand as cuBLASLt sees it: the column-major matrix [rows, cols] that lies in memory, and whether it is used
/// transposed.
struct Stored {
  int64_t rows, cols, stride;
  bool is_transposed;
};

/// a row-major [outer, inner] (col_stride 1) lies as the column-major [inner, outer], which is a^T as wanted.
Stored stored(const Product::Operand& operand, int64_t outer, int64_t inner) {
  return operand.col_stride == 1 ? Stored{inner, outer, operand.row_stride, false}
                                 : Stored{outer, inner, operand.col_stride, true};
}

Layout make_layout(DType dtype, int64_t rows, int64_t cols, int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  MOE_CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&layout, data_type(dtype), static_cast<uint64_t>(rows),
                                              static_cast<uint64_t>(cols), stride));
  return Layout(layout);
}

MatmulDesc make_matmul_desc(DType dtype, bool transpose_b, bool transpose_a) {
  const bool is_double = dtype == DType::kFloat64;
  // CUBLAS_COMPUTE_32F keeps fp32 products in fp32: TF32 would have to be asked for.
  cublasLtMatmulDesc_t raw = nullptr;
  MOE_CUBLAS_CHECK(cublasLtMatmulDescCreate(&raw, is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                            is_double ? CUDA_R_64F : CUDA_R_32F));
  MatmulDesc desc(raw);
  const cublasOperation_t first = transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second = transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  MOE_CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(desc.get(), CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof(first)));
  MOE_CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(desc.get(), CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof(second)));
  return desc;
}

/// The largest power of two, up to 256, that divides the address; without being told, cuBLASLt takes 256 for granted.
uint32_t alignment(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  return static_cast<uint32_t>(std::min<uintptr_t>(address & (~address + 1), 256));
}

template <typename T>
void set_preference(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  MOE_CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)));
}

struct Call {
  const Product& product;
  cublasLtHandle_t handle;
  MatmulDesc desc;
  Layout b, a, c;
};

struct Algorithm {
  cublasLtMatmulAlgo_t algo;
  size_t workspace_bytes;
};

Algorithm pick_algorithm(const Call& call) {
  const Product& p = call.product;
  cublasLtMatmulPreference_t raw = nullptr;
  MOE_CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&raw));
  const Preference preference(raw);
  set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMaxWorkspaceBytes);
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.b.data));
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.a.data));
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.c));
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.c));
  // Parts of a split sum are added in fp32, never in bf16.
  set_preference(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                 static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(call.handle, call.desc.get(), call.b.get(), call.a.get(), call.c.get(),
                                     call.c.get(), preference.get(), 1, &result, &found);
  const bool is_found = found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && !is_found)) {
    throw HardwareError(concat("cuBLASLt has no algorithm for [", p.m, ", ", p.k, "] x [", p.k, ", ", p.n, "] ",
                               dtype_name(p.dtype), " with row strides a ", std::max(p.a.row_stride, p.a.col_stride),
                               ", b ", std::max(p.b.row_stride, p.b.col_stride), ", c ", p.c_stride));
  }
  MOE_CUBLAS_CHECK(status);
  return {result.algo, result.workspaceSize};
}

Algorithm algorithm_for(const Call& call, int device) {
  static LruCache<13, Algorithm> cache(kMaxAlgorithms);
  const Product& p = call.product;
  return cache.get(
      {device, static_cast<int64_t>(p.dtype), p.m, p.n, p.k, p.a.row_stride, p.a.col_stride, p.b.row_stride,
       p.b.col_stride, p.c_stride, alignment(p.a.data), alignment(p.b.data), alignment(p.c)},
      [&call] { return pick_algorithm(call); });
}

}  // namespace

void matmul_cuda(const Product& p, cudaStream_t stream) {
  const size_t size = static_cast<size_t>(dtype_size(p.dtype));
  if (p.k == 0) {
    MOE_CUDA_CHECK(cudaMemset2DAsync(p.c, p.c_stride * size, 0, p.n * size, p.m, stream));
    return;
  }
  const int device = current_device();
  const Stored b = stored(p.b, p.k, p.n);
  const Stored a = stored(p.a, p.m, p.k);
  const Call call{p,
                  handle_of(device),
                  make_matmul_desc(p.dtype, b.is_transposed, a.is_transposed),
                  make_layout(p.dtype, b.rows, b.cols, b.stride),
                  make_layout(p.dtype, a.rows, a.cols, a.stride),
                  make_layout(p.dtype, p.n, p.m, p.c_stride)};
  const Algorithm algorithm = algorithm_for(call, device);
  const CudaWorkspace workspace(algorithm.workspace_bytes, stream);
  const float one_float = 1, zero_float = 0;
  const double one_double = 1, zero_double = 0;
  const bool is_double = p.dtype == DType::kFloat64;
  const void* const one = is_double ? static_cast<const void*>(&one_double) : &one_float;
  const void* const zero = is_double ? static_cast<const void*>(&zero_double) : &zero_float;
  MOE_CUBLAS_CHECK(cublasLtMatmul(call.handle, call.desc.get(), one, p.b.data, call.b.get(), p.a.data, call.a.get(),
                                  zero, p.c, call.c.get(), p.c, call.c.get(), &algorithm.algo, workspace.data(),
                                  algorithm.workspace_bytes, stream));
}

}  // namespace moe::kernels
