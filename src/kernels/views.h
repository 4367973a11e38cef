#pragma once

#include <cstdint>

/// Non-owning views of memory, all that src/kernels knows of tensors. Nothing here owns or allocates.
namespace moe::kernels {

enum class DType { kFloat32, kBFloat16, kFloat64 };

int64_t dtype_size(DType dtype);  // bytes

/// In which type elements of `dtype` are summed; also that of what is kept of a sum (a row's norm, the logarithm of its
/// softmax's sum, its loss), of angles and of combine weights: float64 for float64, else fp32.
DType sum_dtype(DType dtype);

/// Where the memory lies, and on which queue the work is enqueued. `stream` is a cudaStream_t of the calling thread's
/// current device for kCuda, unused on CPU (the call returns when the work is done).
enum class DeviceType { kCpu, kCuda };
struct Queue {
  DeviceType device = DeviceType::kCpu;
  void* stream = nullptr;
};

/// A row-major matrix whose rows are `stride` elements apart (stride >= cols). rows or cols may be 0.
struct MatrixView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
};
struct ConstMatrixView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  ConstMatrixView() = default;
  ConstMatrixView(const void* data_in, DType dtype_in, int64_t rows_in, int64_t cols_in, int64_t stride_in)
      : data(data_in), dtype(dtype_in), rows(rows_in), cols(cols_in), stride(stride_in) {}
  ConstMatrixView(const MatrixView& view)  // NOLINT: a view may always be read
      : ConstMatrixView(view.data, view.dtype, view.rows, view.cols, view.stride) {}
};

/// Elements without gaps: a weight or one number per row. size may be 0.
struct VectorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t size = 0;
};
struct ConstVectorView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t size = 0;

  ConstVectorView() = default;
  ConstVectorView(const void* data_in, DType dtype_in, int64_t size_in)
      : data(data_in), dtype(dtype_in), size(size_in) {}
  ConstVectorView(const VectorView& view)  // NOLINT: a view may always be read
      : ConstVectorView(view.data, view.dtype, view.size) {}
};

}  // namespace moe::kernels
