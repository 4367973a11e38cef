#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <limits>
#include <type_traits>

#include "common/error.h"
#include "kernels/cuda_check.h"
#include "kernels/views.h"

/// What the CUDA kernels share: element types, rows, words of several elements, and the numbers of a launch. For the
/// files *_cuda.cu alone. T is the type of elements as they lie, SumOf<T> the one that is computed in.
namespace moe::kernels::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

/// numeric_limits has functions, which device code cannot call.
template <typename S>
constexpr S kInfinity = std::numeric_limits<S>::infinity();

namespace internal {
template <typename T>
struct Sum {
  using Type = T;
};
template <>
struct Sum<__nv_bfloat16> {
  using Type = float;
};
}  // namespace internal

template <typename T>
using SumOf = typename internal::Sum<T>::Type;

template <typename T>
__device__ inline SumOf<T> widen(T value) {
  return value;
}
template <>
__device__ inline float widen<__nv_bfloat16>(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

template <typename T>
__device__ inline T narrow(SumOf<T> value) {
  return value;
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

/// Calls body(T{}) with the element type of dtype.
template <typename Body>
void with_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat32: return body(float{});
    case DType::kBFloat16: return body(__nv_bfloat16{});
    case DType::kFloat64: return body(double{});
  }
}

/// The rows of a matrix of T, as a kernel's argument.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  __device__ T* operator[](int64_t row) const { return data + row * stride; }
};
template <typename T>
Rows<const T> rows_of(const ConstMatrixView& view) {
  return {static_cast<const T*>(view.data), view.stride};
}
template <typename T>
Rows<T> rows_of(const MatrixView& view) {
  return {static_cast<T*>(view.data), view.stride};
}
template <typename T>
const T* elements_of(const ConstVectorView& view) {
  return static_cast<const T*>(view.data);
}
template <typename T>
T* elements_of(const VectorView& view) {
  return static_cast<T*>(view.data);
}

/// V elements that are loaded and stored at once.
template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T items[V];
};

template <int V, typename T>
__device__ inline Pack<T, V> load(const T* from) {
  return *reinterpret_cast<const Pack<T, V>*>(from);
}
template <typename T, int V>
__device__ inline void store(T* to, const Pack<T, V>& pack) {
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

/// Calls body(std::integral_constant<int, V>{}) with V the elements of the widest word where all views allow it,
/// else 1.
template <typename T, typename Body>
void with_pack(bool is_wide, const Body& body) {
  if (is_wide) return body(std::integral_constant<int, 16 / static_cast<int>(sizeof(T))>{});
  body(std::integral_constant<int, 1>{});
}

/// Whether words of `bytes` divide the view's address, rows and stride.
inline bool divides(int64_t bytes, const ConstMatrixView& view) {
  const int64_t size = dtype_size(view.dtype);
  return reinterpret_cast<uintptr_t>(view.data) % bytes == 0 && view.cols * size % bytes == 0 &&
         view.stride * size % bytes == 0;
}

/// Whether rows of all views may be read and written in words of 16 bytes.
template <typename... Views>
bool are_wide(const Views&... views) {
  return (divides(16, views) && ...);
}
inline bool is_wide(const ConstVectorView& vector) {
  return divides(16, {vector.data, vector.dtype, 1, vector.size, vector.size});
}

/// Blocks of a grid's x axis, the one whose limit is 2^31 - 1.
inline unsigned grid(int64_t blocks, const char* op) {
  if (blocks > std::numeric_limits<int32_t>::max()) {
    throw InvalidArgument(concat(op, ": ", blocks, " blocks exceed what one launch can take (2^31 - 1)"));
  }
  return static_cast<unsigned>(blocks);
}

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace moe::kernels::cuda
