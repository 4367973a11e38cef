// The CPU's matrix product on oneDNN.
//
// Rows that lie apart (stride > cols) make oneDNN take another implementation (jit gemm instead of brgemm) whose row bits
// depend on the batch, so such operands are copied to dense memory. Where a processor has no brgemm (fp32 without AVX-512,
// bf16 without AVX512_BF16) the rows are multiplied in blocks of one size, the last one padded and each on one thread:
// then jit gemm's row bits are independent of the batch as well.
#include "kernels/matmul_cpu.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <vector>

#include "common/error.h"
#include "kernels/dense_operand.h"
#include "kernels/matmul_cpu_sliced.h"
#include "kernels/onednn_matmul.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

/// Rows of a block where blocks are needed.
constexpr int64_t kBlockRows = 64;

/// Memory for a dense copy, 0 where none is needed.
size_t copy_bytes(const Runs& runs, size_t element) {
  return runs.is_dense() ? 0 : aligned(static_cast<size_t>(runs.outer * runs.inner) * element);
}

/// Where the operand's elements stand densely: where it lies, or in a copy in `memory`, which then moves on.
const void* dense(const void* data, const Runs& runs, size_t element, char*& memory) {
  if (runs.is_dense()) {
    return data;
  }
  char* const copy = memory;
  copy_runs(copy, runs.inner, data, runs, element);
  memory += copy_bytes(runs, element);
  return copy;
}

/// Whether an operand [rows, cols] lies transposed. A single row has one way to lie, also where it came as a transposed
/// column: one key, one primitive, one set of bits.
bool is_transposed(const Product::Operand& operand, int64_t rows) {
  return operand.col_stride != 1 && rows != 1;
}

/// A product with how its operands lie, and what runs its dense form (null `matmul`: oneDNN has no implementation).
struct Plan {
  Product product;
  Runs a, b, c;
  std::shared_ptr<const OneDnnMatmul> dense;
};

Plan plan(const Product& p) {
  return {p, runs_of(p.a, p.m, p.k), runs_of(p.b, p.k, p.n), {p.m, p.n, p.c_stride},
          onednn_matmul({.dtype = p.dtype, .m = p.m, .n = p.n, .k = p.k, .a_is_transposed = is_transposed(p.a, p.m),
                         .b_is_transposed = is_transposed(p.b, p.k)})};
}

/// Copies in what is not dense, multiplies, copies the result out.
void run(const Plan& plan) {
  const size_t element = static_cast<size_t>(dtype_size(plan.product.dtype));
  char* memory = static_cast<char*>(
      working_memory(copy_bytes(plan.a, element) + copy_bytes(plan.b, element) + copy_bytes(plan.c, element) +
                     plan.dense->scratchpad.get_size()));
  const void* const a = dense(plan.product.a.data, plan.a, element, memory);
  const void* const b = dense(plan.product.b.data, plan.b, element, memory);
  if (plan.c.is_dense()) {
    return plan.dense->run(a, b, plan.product.c, memory);
  }
  plan.dense->run(a, b, memory, memory + copy_bytes(plan.c, element));
  copy_runs(plan.product.c, plan.c.stride, memory, {plan.c.outer, plan.c.inner, plan.c.inner}, element);
}

/// Multiplies `rows` rows of a (which lies row by row) from `row` on, as a block of kBlockRows.
void run_block(const Product& product, int64_t row, int64_t rows) {
  const int64_t element = dtype_size(product.dtype);
  const char* const a = static_cast<const char*>(product.a.data) + row * product.a.row_stride * element;
  char* const c = static_cast<char*>(product.c) + row * product.c_stride * element;
  Product block = product;
  block.m = kBlockRows;
  block.a.data = a;
  block.c = c;
  if (rows == kBlockRows) {
    return run(plan(block));
  }
  std::vector<char> padded_a(static_cast<size_t>(kBlockRows * product.k * element));
  std::vector<char> padded_c(static_cast<size_t>(kBlockRows * product.n * element));
  copy_runs(padded_a.data(), product.k, a, {rows, product.k, product.a.row_stride}, static_cast<size_t>(element));
  block.a = {padded_a.data(), product.k, 1};
  block.c = padded_c.data();
  block.c_stride = product.n;
  run(plan(block));
  copy_runs(c, product.c_stride, padded_c.data(), {rows, product.n, product.n}, static_cast<size_t>(element));
}

/// One thread per block, since a library that splits a block among threads may split its sums.
void run_in_blocks(const Product& product) {
  std::exception_ptr failure;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < product.m; row += kBlockRows) {
    try {
      run_block(product, row, std::min(kBlockRows, product.m - row));
    } catch (...) {
#pragma omp critical(moe_matmul_failure)
      failure = std::current_exception();
    }
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
}

/// False where oneDNN has no implementation.
bool multiply(const Product& product) {
  if (is_for_slices(product)) {
    matmul_sliced(product);
    return true;
  }
  const Plan whole = plan(product);
  if (!whole.dense->matmul) {
    return false;
  }
  const bool is_weight_gradient = product.a.col_stride != 1;  // sums over the batch anyway
  if (whole.dense->is_brgemm || is_weight_gradient) {
    run(whole);
  } else {
    run_in_blocks(product);
  }
  return true;
}

}  // namespace

void matmul_cpu(const Product& product) {
  if (product.dtype == DType::kFloat64 || product.k == 0) {
    return matmul_plain(product);
  }
  bool is_done = false;
  try {
    is_done = multiply(product);
  } catch (const dnnl::error& error) {
    throw HardwareError(concat("oneDNN matmul [", product.m, ", ", product.k, "] x [", product.k, ", ", product.n, "] ",
                               dtype_name(product.dtype), " failed with status ", static_cast<int>(error.status), ": ",
                               error.what()));
  }
  if (!is_done) {
    matmul_plain(product);
  }
}

}  // namespace moe::kernels
