#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/attention.h"
#include "kernels/grouped_matmul.h"
#include "kernels/routing.h"
#include "kernels/views.h"

/// What one device implements, as plain functions on checked arguments. Callers use the header of an op (matmul.h,
/// permute.h), which checks shapes once and then comes here; only the implementations include this file. The CPU's
/// table is linked in; CUDA's comes out of the shared library libmoe_cuda (cuda_library.h), so that a CPU program links
/// no CUDA.
namespace moe::kernels {

/// c[m, n] = sum over k of a[m, k] * b[k, n], all of one dtype; element (i, j) of an operand lies at
/// data + i * row_stride + j * col_stride (one of the two strides is 1). c is row-major. m, n > 0; k may be 0 (c = 0).
struct Product {
  struct Operand {
    const void* data;
    int64_t row_stride;
    int64_t col_stride;
  };
  DType dtype;
  int64_t m, n, k;
  Operand a, b;
  void* c;
  int64_t c_stride;
};

/// The arguments of permute.h, with shapes that agree; of sizes only the outer loop's is known to be above 0. Weights
/// lie without gaps, in sum_dtype of the rows.
struct PermuteArgs {
  ConstMatrixView x;
  const int64_t* row_tokens;
  MatrixView rows;
};
struct UnpermuteArgs {
  ConstMatrixView rows;
  const int64_t* slot_rows;
  int64_t slots;
  const void* weights;
  MatrixView y;
};
struct UnpermuteGradientArgs {
  ConstMatrixView dy;
  ConstMatrixView rows;
  const int64_t* slot_rows;
  int64_t slots;
  const void* weights;
  MatrixView drows;
  void* dweights;
};

/// The arguments of rows.h, norms.h, cross_entropy.h and attention.h, with shapes and dtypes that agree; any size may
/// be 0. A vector's data may be null where its comment there says so.
struct SwigluArgs {
  ConstMatrixView gate, up;
  MatrixView y;
};
struct SwigluGradientArgs {
  ConstMatrixView dy, gate, up;
  MatrixView dgate, dup;
};
struct GeluNewArgs {
  ConstMatrixView x;
  MatrixView y;
};
struct GeluNewGradientArgs {
  ConstMatrixView dy, x;
  MatrixView dx;
};
struct AddBiasArgs {
  ConstVectorView bias;
  MatrixView y;
};
struct SumRowsArgs {
  ConstMatrixView x;
  VectorView sum;
};
struct RopeArgs {
  ConstMatrixView x, cos, sin;
  int64_t heads;
  int direction;
  MatrixView y;
};
struct SumOfSquaresArgs {
  ConstVectorView x;
  double* sum;
};
struct RmsNormArgs {
  ConstMatrixView x;
  ConstVectorView weight;
  double eps;
  MatrixView y;
  VectorView inverse;
};
struct RmsNormGradientArgs {
  ConstMatrixView dy, x;
  ConstVectorView weight, inverse;
  MatrixView dx;
  VectorView dweight;
};
struct LayerNormArgs {
  ConstMatrixView x;
  ConstVectorView weight, bias;
  double eps;
  MatrixView y;
  VectorView mean, inverse;
};
struct LayerNormGradientArgs {
  ConstMatrixView dy, x;
  ConstVectorView weight, mean, inverse;
  MatrixView dx;
  VectorView dweight_dbias;
};
struct CrossEntropyArgs {
  ConstMatrixView logits;
  const int64_t* labels;
  int64_t ignored;
  VectorView losses, log_sums;
};
struct CrossEntropyGradientArgs {
  ConstVectorView dlosses;
  ConstMatrixView logits;
  ConstVectorView log_sums;
  const int64_t* labels;
  int64_t ignored;
  MatrixView dlogits;
};
struct AttentionArgs {
  AttentionShape shape;
  ConstMatrixView q, k, v;
  MatrixView out, log_sums;
};
struct AttentionGradientArgs {
  AttentionShape shape;
  ConstMatrixView dout, q, k, v, out, log_sums;
  MatrixView dq, dk, dv;
};

/// The arguments of grouped_matmul.h, in its order, with shapes that agree. Row counts lie on the device, whose version
/// checks that they are all of the rows, where it can read them.
struct GroupedLinearArgs {
  ConstMatrixView a, b;
  MatrixView c;
  RowGroups groups;
};
struct GroupedAddBiasArgs {
  ConstMatrixView bias;
  MatrixView y;
  RowGroups groups;
};
struct GroupedSumRowsArgs {
  ConstMatrixView x;
  MatrixView sums;
  RowGroups groups;
};

struct TopKArgs {
  ConstMatrixView logits;
  int64_t k;
  int64_t* ids;
};

/// An op of one device: enqueues the work on the queue, which is of that device, and returns. Null: the device has no
/// version of it.
template <typename Args>
using Op = void (*)(const Args& args, const Queue& queue);

struct Backend {
  Op<Product> matmul = nullptr;
  Op<PermuteArgs> permute = nullptr;
  Op<UnpermuteArgs> unpermute = nullptr;
  Op<UnpermuteGradientArgs> unpermute_gradient = nullptr;
  Op<SwigluArgs> swiglu = nullptr;
  Op<SwigluGradientArgs> swiglu_gradient = nullptr;
  Op<GeluNewArgs> gelu_new = nullptr;
  Op<GeluNewGradientArgs> gelu_new_gradient = nullptr;
  Op<AddBiasArgs> add_bias = nullptr;
  Op<SumRowsArgs> sum_rows = nullptr;
  Op<RopeArgs> rope = nullptr;
  Op<SumOfSquaresArgs> sum_of_squares = nullptr;
  Op<RmsNormArgs> rms_norm = nullptr;
  Op<RmsNormGradientArgs> rms_norm_gradient = nullptr;
  Op<LayerNormArgs> layer_norm = nullptr;
  Op<LayerNormGradientArgs> layer_norm_gradient = nullptr;
  Op<CrossEntropyArgs> cross_entropy = nullptr;
  Op<CrossEntropyGradientArgs> cross_entropy_gradient = nullptr;
  Op<AttentionArgs> attention = nullptr;
  Op<AttentionGradientArgs> attention_gradient = nullptr;
  Op<GroupedLinearArgs> grouped_linear_forward = nullptr;
  Op<GroupedLinearArgs> grouped_linear_input_gradient = nullptr;
  Op<GroupedLinearArgs> grouped_linear_weight_gradient = nullptr;
  Op<GroupedAddBiasArgs> grouped_add_bias = nullptr;
  Op<GroupedSumRowsArgs> grouped_sum_rows = nullptr;
  Op<TopKArgs> top_k = nullptr;
  Op<SlotSort> sort_slots = nullptr;
  Op<SendSort> sort_sends = nullptr;
  /// Devices that the process can use; 0 where there is none or no driver.
  int (*device_count)() = nullptr;
};

/// Throws InvalidArgument for kCuda when no CUDA library was loaded.
const Backend& backend(DeviceType device);

[[noreturn]] void throw_no_version(const char* name, DeviceType device);

/// Runs an op on the device of the queue. Throws InvalidArgument with the op's `name` where that device has no version
/// of it: run(&Backend::permute, "permute", {x, row_tokens, rows}, queue).
template <typename Args>
void run(Op<Args> Backend::*op, const char* name, const std::type_identity_t<Args>& args, const Queue& queue) {
  const Op<Args> version = backend(queue.device).*op;
  if (version == nullptr) {
    throw_no_version(name, queue.device);
  }
  version(args, queue);
}

/// The CPU's implementations.
extern const Backend kCpuBackend;

}  // namespace moe::kernels
