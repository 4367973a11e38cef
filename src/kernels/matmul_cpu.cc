// The CPU's matrix product on oneDNN.
//
// Rows that lie apart (stride > cols) make oneDNN take another implementation (jit gemm instead of brgemm) whose row
// bits depend on the batch, so such operands are copied to dense memory. Where a processor has no brgemm (fp32 without
// AVX-512, bf16 without AVX512_BF16) the rows are multiplied in blocks of one size, the last one padded and each on one
// thread: then jit gemm's row bits are independent of the batch as well.
//
// Row counts are other numbers at every step, and oneDNN compiles a primitive for each shape: onednn_matmul.h says with
// which few shapes all row counts are served, without a change to any row's bits.
#include "kernels/matmul_cpu.h"

#include <algorithm>
#include <cstring>
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

/// An operand as it lies, and how many runs its dense form has: more than lie there means runs of zeros behind them.
struct Layout {
  Runs runs;
  int64_t outer;

  explicit Layout(const Runs& lying) : runs(lying), outer(lying.outer) {}
  Layout(const Runs& lying, int64_t outer_in) : runs(lying), outer(outer_in) {}
  bool is_copied() const { return !runs.is_dense() || outer > runs.outer; }
  /// Memory for a dense copy, 0 where none is needed.
  size_t copy_bytes(size_t element) const {
    return is_copied() ? aligned(static_cast<size_t>(outer * runs.inner) * element) : 0;
  }
};

/// Where the operand's elements stand densely: where it lies, or in a copy in `memory`, which then moves on.
const void* dense(const void* data, const Layout& layout, size_t element, char*& memory) {
  if (!layout.is_copied()) {
    return data;
  }
  char* const copy = memory;
  const Runs& runs = layout.runs;
  copy_runs(copy, runs.inner, data, runs, element);
  std::memset(copy + static_cast<size_t>(runs.outer * runs.inner) * element, 0,
              static_cast<size_t>((layout.outer - runs.outer) * runs.inner) * element);
  memory += layout.copy_bytes(element);
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
  Layout a, b, c;
  std::shared_ptr<const OneDnnMatmul> dense;
  int64_t open_k = kOpen;  ///< the inner dimension, where `dense` leaves it open
};

Plan plan(const Product& p) {
  return {p, Layout(runs_of(p.a, p.m, p.k)), Layout(runs_of(p.b, p.k, p.n)), Layout({p.m, p.n, p.c_stride}),
          onednn_matmul({.dtype = p.dtype,
                         .m = p.m,
                         .n = p.n,
                         .k = p.k,
                         .a_is_transposed = is_transposed(p.a, p.m),
                         .b_is_transposed = is_transposed(p.b, p.k)})};
}

/// A weight gradient: a lies as [k, m] and b as [k, n], and k, the rows that are summed, is another number each time.
Plan plan_weight_gradient(const Product& p) {
  const Runs a{p.k, p.m, p.a.col_stride}, b{p.k, p.n, p.b.row_stride}, c{p.m, p.n, p.c_stride};
  const bool is_open = p.dtype == DType::kFloat32;
  const int64_t k = is_open ? p.k : prepared_count(p.k);
  return {p,
          Layout(a, k),
          Layout(b, k),
          Layout(c),
          onednn_matmul({.dtype = p.dtype, .m = p.m, .n = p.n, .k = is_open ? kOpen : k, .a_is_transposed = true}),
          is_open ? p.k : kOpen};
}

/// Copies in what is not dense, multiplies, copies the result out.
void run(const Plan& plan) {
  const size_t element = static_cast<size_t>(dtype_size(plan.product.dtype));
  char* memory = static_cast<char*>(working_memory(plan.a.copy_bytes(element) + plan.b.copy_bytes(element) +
                                                   plan.c.copy_bytes(element) + plan.dense->scratchpad.get_size()));
  const void* const a = dense(plan.product.a.data, plan.a, element, memory);
  const void* const b = dense(plan.product.b.data, plan.b, element, memory);
  if (!plan.c.is_copied()) {
    return plan.dense->run(a, b, plan.product.c, memory, plan.open_k);
  }
  plan.dense->run(a, b, memory, memory + plan.c.copy_bytes(element), plan.open_k);
  const Runs& c = plan.c.runs;
  copy_runs(plan.product.c, c.stride, memory, {c.outer, c.inner, c.inner}, element);
}

/// Rows [first, first + rows) of a product whose a lies row by row.
Product rows_of(const Product& product, int64_t first, int64_t rows) {
  const int64_t element = dtype_size(product.dtype);
  Product part = product;
  part.m = rows;
  part.a.data = static_cast<const char*>(product.a.data) + first * product.a.row_stride * element;
  part.c = static_cast<char*>(product.c) + first * product.c_stride * element;
  return part;
}

/// Multiplies `rows` rows of a (which lies row by row) from `row` on, as a block of kBlockRows.
void run_block(const Product& product, int64_t row, int64_t rows) {
  Product block = rows_of(product, row, kBlockRows);
  if (rows == kBlockRows) {
    return run(plan(block));
  }
  const auto element = static_cast<size_t>(dtype_size(product.dtype));
  std::vector<char> padded_a(static_cast<size_t>(kBlockRows * product.k) * element);
  std::vector<char> padded_c(static_cast<size_t>(kBlockRows * product.n) * element);
  void* const c = block.c;
  copy_runs(padded_a.data(), product.k, block.a.data, {rows, product.k, product.a.row_stride}, element);
  block.a = {padded_a.data(), product.k, 1};
  block.c = padded_c.data();
  block.c_stride = product.n;
  run(plan(block));
  copy_runs(c, product.c_stride, padded_c.data(), {rows, product.n, product.n}, element);
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
  if (product.a.col_stride != 1) {
    const Plan gradient = plan_weight_gradient(product);
    if (gradient.dense->matmul) {
      run(gradient);
    }
    return gradient.dense->matmul.has_value();
  }
  const int64_t rows = rows_of_a_run(product.m);
  const Plan first = plan(rows_of(product, 0, rows));
  if (!first.dense->matmul) {
    return false;
  }
  if (!first.dense->is_brgemm) {
    run_in_blocks(product);
    return true;
  }
  run(first);
  if (rows < product.m) {
    run(plan(rows_of(product, product.m - rows, rows)));
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
