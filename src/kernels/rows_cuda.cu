// Operations on the elements of rows, and sums over rows, on CUDA. Those on elements are bound by memory: a thread
// moves 16 bytes per load where the rows allow it.
#include <algorithm>
#include <cstdint>

#include "kernels/cuda_columns.h"
#include "kernels/cuda_elements.h"
#include "kernels/cuda_kernels.h"
#include "kernels/cuda_reduce.h"
#include "kernels/cuda_workspace.h"

namespace moe::kernels {
namespace {

using namespace cuda;  // NOLINT: what the kernels share

constexpr int kThreads = 256;

/// Elements of `In` matrices to those of `Out`, all [rows, units * V]: map(in, out) on the numbers of one place.
template <typename T, int V, int In, int Out, typename Map>
struct MapArgs {
  Rows<const T> in[In];
  Rows<T> out[Out];
  int64_t rows, units;
  Map map;
};

/// One thread per word of V elements.
template <typename T, int V, int In, int Out, typename Map>
__global__ void map_kernel(MapArgs<T, V, In, Out, Map> args) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (unit >= args.rows * args.units) return;
  const int64_t row = unit / args.units, first = unit % args.units * V;
  Pack<T, V> in[In], out[Out];
#pragma unroll
  for (int i = 0; i < In; ++i) in[i] = load<V>(args.in[i][row] + first);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    SumOf<T> from[In], to[Out];
#pragma unroll
    for (int i = 0; i < In; ++i) from[i] = widen(in[i].items[v]);
    args.map(from, to);
#pragma unroll
    for (int i = 0; i < Out; ++i) out[i].items[v] = narrow<T>(to[i]);
  }
#pragma unroll
  for (int i = 0; i < Out; ++i) store(args.out[i][row] + first, out[i]);
}

template <int In, int Out, typename Map>
void launch_map(const char* op, const ConstMatrixView (&in)[In], const MatrixView (&out)[Out], Map map,
                cudaStream_t stream) {
  const int64_t rows = out[0].rows, width = out[0].cols;
  if (rows == 0 || width == 0) return;
  const auto is_wide = [](const ConstMatrixView& view) { return divides(16, view); };
  const bool all_wide = std::all_of(in, in + In, is_wide) && std::all_of(out, out + Out, is_wide);
  with_type(out[0].dtype, [&]<typename T>(T) {
    with_pack<T>(all_wide, [&]<int V>(std::integral_constant<int, V>) {
      MapArgs<T, V, In, Out, Map> args{{}, {}, rows, width / V, map};
      for (int i = 0; i < In; ++i) args.in[i] = rows_of<T>(in[i]);
      for (int i = 0; i < Out; ++i) args.out[i] = rows_of<T>(out[i]);
      const unsigned blocks = grid(ceil_div(rows * args.units, kThreads), op);
      map_kernel<T, V, In, Out, Map><<<blocks, kThreads, 0, stream>>>(args);
      MOE_CUDA_CHECK(cudaGetLastError());
    });
  });
}

template <typename S>
__device__ S sigmoid(S x) {
  return S{1} / (S{1} + exp(-x));
}

struct Swiglu {
  template <typename S>
  __device__ void operator()(const S (&in)[2], S (&out)[1]) const {
    out[0] = in[0] * sigmoid(in[0]) * in[1];
  }
};
struct SwigluGradient {
  template <typename S>
  __device__ void operator()(const S (&in)[3], S (&out)[2]) const {
    const S dy = in[0], g = in[1], s = sigmoid(g), silu = g * s;
    out[0] = dy * in[2] * (s + silu * (S{1} - s));
    out[1] = dy * silu;
  }
};

/// (1 + tanh(u)) / 2 = sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
struct GeluNew {
  static constexpr double kTwice = 2 * 0.79788456080286535588, kCubic = 0.044715;

  template <typename S>
  __device__ void operator()(const S (&in)[1], S (&out)[1]) const {
    const S x = in[0];
    out[0] = x * sigmoid(static_cast<S>(kTwice) * (x + static_cast<S>(kCubic) * (x * x * x)));
  }
};
struct GeluNewGradient {
  template <typename S>
  __device__ void operator()(const S (&in)[2], S (&out)[1]) const {
    constexpr S kTwice = static_cast<S>(GeluNew::kTwice), kCubic = static_cast<S>(GeluNew::kCubic);
    const S x = in[1], square = x * x, s = sigmoid(kTwice * (x + kCubic * (square * x)));
    const S inner = kTwice * (S{1} + S{3} * kCubic * square);
    out[0] = in[0] * (s + x * (s * (S{1} - s)) * inner);
  }
};
struct Sum {
  template <typename S>
  __device__ void operator()(const S (&in)[2], S (&out)[1]) const {
    out[0] = in[0] + in[1];
  }
};

/// One thread per pair of a head, and per element that passes through.
template <typename T>
__global__ void rope_kernel(Rows<const T> x, Rows<const SumOf<T>> cos, Rows<const SumOf<T>> sin, int64_t rows,
                            int64_t heads, int64_t head_dim, int64_t half, SumOf<T> sign, Rows<T> y) {
  using S = SumOf<T>;
  const int64_t per_head = head_dim - half, unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (unit >= rows * heads * per_head) return;
  const int64_t row = unit / (heads * per_head), head = unit / per_head % heads, j = unit % per_head;
  const T* const from = x[row] + head * head_dim;
  T* const to = y[row] + head * head_dim;
  if (j < half) {
    const S c = cos[row][j], s = sign * sin[row][j], first = widen(from[j]), second = widen(from[j + half]);
    to[j] = narrow<T>(first * c - second * s);
    to[j + half] = narrow<T>(second * c + first * s);
  } else {
    to[j + half] = from[j + half];
  }
}

template <typename T>
__global__ void sum_rows_kernel(Rows<const T> x, int64_t rows, int64_t columns, T* sum) {
  const SumOf<T> total = column_sum<SumOf<T>>(0, rows, columns, ElementTerm<T>{x});
  if (writes_column(columns)) sum[this_column()] = narrow<T>(total);
}

/// Elements whose squares a block adds before the blocks' sums are added.
constexpr int64_t kSquaresOfBlock = 1 << 15;

template <typename T>
__global__ void squares_kernel(const T* x, int64_t count, double* of_block) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kSquaresOfBlock, end = min(first + kSquaresOfBlock, count);
  double sum = 0;
  for (int64_t i = first + threadIdx.x; i < end; i += kThreads) {
    const double value = widen(x[i]);
    sum += value * value;
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) of_block[blockIdx.x] = sum;
}

/// One block.
__global__ void total_kernel(const double* of_block, int64_t blocks, double* total) {
  double sum = 0;
  for (int64_t block = threadIdx.x; block < blocks; block += kThreads) sum += of_block[block];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) *total = sum;
}

}  // namespace

void swiglu_cuda(const SwigluArgs& args, cudaStream_t stream) {
  launch_map<2, 1>("swiglu", {args.gate, args.up}, {args.y}, Swiglu{}, stream);
}

void swiglu_gradient_cuda(const SwigluGradientArgs& args, cudaStream_t stream) {
  launch_map<3, 2>("swiglu_gradient", {args.dy, args.gate, args.up}, {args.dgate, args.dup}, SwigluGradient{}, stream);
}

void gelu_new_cuda(const GeluNewArgs& args, cudaStream_t stream) {
  launch_map<1, 1>("gelu_new", {args.x}, {args.y}, GeluNew{}, stream);
}

void gelu_new_gradient_cuda(const GeluNewGradientArgs& args, cudaStream_t stream) {
  launch_map<2, 1>("gelu_new_gradient", {args.dy, args.x}, {args.dx}, GeluNewGradient{}, stream);
}

void add_bias_cuda(const AddBiasArgs& args, cudaStream_t stream) {
  const ConstMatrixView bias{args.bias.data, args.bias.dtype, args.y.rows, args.bias.size, 0};  // each row the same
  launch_map<2, 1>("add_bias", {args.y, bias}, {args.y}, Sum{}, stream);
}

void sum_rows_cuda(const SumRowsArgs& args, cudaStream_t stream) {
  if (args.x.cols == 0) return;
  with_type(args.x.dtype, [&]<typename T>(T) {
    sum_rows_kernel<T><<<column_grid(args.x.cols), column_block(), 0, stream>>>(rows_of<T>(args.x), args.x.rows,
                                                                                args.x.cols, elements_of<T>(args.sum));
    MOE_CUDA_CHECK(cudaGetLastError());
  });
}

void rope_cuda(const RopeArgs& args, cudaStream_t stream) {
  const int64_t head_dim = args.x.cols / args.heads, half = args.cos.cols;
  const int64_t units = args.x.rows * args.heads * (head_dim - half);
  if (units == 0) return;
  with_type(args.x.dtype, [&]<typename T>(T) {
    using S = SumOf<T>;
    const unsigned blocks = grid(ceil_div(units, kThreads), "rope");
    const auto sign = static_cast<S>(args.direction);
    rope_kernel<T><<<blocks, kThreads, 0, stream>>>(rows_of<T>(args.x), rows_of<S>(args.cos), rows_of<S>(args.sin),
                                                    args.x.rows, args.heads, head_dim, half, sign, rows_of<T>(args.y));
    MOE_CUDA_CHECK(cudaGetLastError());
  });
}

void sum_of_squares_cuda(const SumOfSquaresArgs& args, cudaStream_t stream) {
  const int64_t blocks = ceil_div(args.x.size, kSquaresOfBlock);
  const CudaWorkspace workspace(static_cast<size_t>(blocks) * sizeof(double), stream);
  auto* const of_block = static_cast<double*>(workspace.data());
  with_type(args.x.dtype, [&]<typename T>(T) {
    if (blocks == 0) return;
    squares_kernel<T>
        <<<grid(blocks, "sum_of_squares"), kThreads, 0, stream>>>(elements_of<T>(args.x), args.x.size, of_block);
    MOE_CUDA_CHECK(cudaGetLastError());
  });
  total_kernel<<<1, kThreads, 0, stream>>>(of_block, blocks, args.sum);
  MOE_CUDA_CHECK(cudaGetLastError());
}

}  // namespace moe::kernels
