// The CPU's matrix product on oneDNN.
//
// A primitive is made for one exact shape and kept. Measured on one thread of an AMD EPYC with avx512_bf16,
// oneDNN 2.6.3:
//   making one               100-400 us (it compiles code), 50 KB; even out of oneDNN's own cache 5 us
//   [200, 256] x [256, 96]   94 us in fp32, 48 us in bf16
//   row count left open      10 us to make, as fast in fp32, up to 2x slower in bf16 at odd widths
// An open row count would spare remaking when an expert's row count changes, but it takes another implementation (jit
// gemm instead of brgemm) whose row bits do depend on the batch: 358 of 1120 sub-batches differed in fp32 and 3 in
// bf16; with exact shapes none did. Experts of a run see a few hundred row counts, so making them all costs under a
// second. Rows that lie apart (stride > cols) take that other implementation too, so such operands are copied to dense
// memory. Where a processor has no brgemm (fp32 without AVX-512, bf16 without AVX512_BF16) the rows are multiplied in
// blocks of one size, the last one padded and each on one thread: then jit gemm's row bits are independent of the batch
// as well.
#include "kernels/matmul_cpu.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "kernels/lru_cache.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

/// Bounds the cache at about 100 MB.
constexpr size_t kMaxPrimitives = 2048;

/// Of working memory, in bytes: a cache line, and the widest vector.
constexpr size_t kAlignment = 64;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

/// Rows of a block where blocks are needed.
constexpr int64_t kBlockRows = 64;

/// A primitive ready to run. `matmul` is empty where oneDNN has none for this processor (bf16 without AVX-512).
struct Prepared {
  std::optional<dnnl::matmul> matmul;
  bool is_brgemm = false;
  dnnl::memory::desc a, b, c, scratchpad;
};

std::shared_ptr<const Prepared> prepare(const Product& p) {
  const auto type = p.dtype == DType::kBFloat16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  auto prepared = std::make_shared<Prepared>();
  prepared->a = {{p.m, p.k}, type, dnnl::memory::dims{p.a.row_stride, p.a.col_stride}};
  prepared->b = {{p.k, p.n}, type, dnnl::memory::dims{p.b.row_stride, p.b.col_stride}};
  prepared->c = {{p.m, p.n}, type, dnnl::memory::dims{p.c_stride, 1}};
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // several threads may run one primitive at a time
  try {
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(prepared->a, prepared->b, prepared->c),
                                                   attributes, cpu_engine());
    prepared->scratchpad = description.scratchpad_desc();
    prepared->matmul.emplace(description);
    prepared->is_brgemm = std::string_view(description.impl_info_str()).substr(0, 3) == "brg";
  } catch (const dnnl::error& error) {
    if (error.status != dnnl_unimplemented) {
      throw;
    }
  }
  return prepared;
}

/// Of a product whose operands are dense: sizes, which of them lie transposed, and the threads that will run it.
std::shared_ptr<const Prepared> prepared_for(const Product& p) {
  static LruCache<7, std::shared_ptr<const Prepared>> cache(kMaxPrimitives);
  const int64_t threads = omp_in_parallel() ? 1 : omp_get_max_threads();
  return cache.get({static_cast<int64_t>(p.dtype), p.m, p.n, p.k, p.a.col_stride == 1, p.b.col_stride == 1, threads},
                   [&p] { return prepare(p); });
}

/// Working memory of the calling thread, as large as the largest product that it ran.
void* working_memory(size_t bytes) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local size_t size = 0;
  if (bytes > size) {
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    memory.reset();
    size = 0;
    memory.reset(std::aligned_alloc(kAlignment, rounded));
    if (memory == nullptr) {
      throw std::bad_alloc();
    }
    size = rounded;
  }
  return memory.get();
}

size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// One matrix of a product as it lies: `outer` runs of `inner` elements, `stride` apart.
struct Runs {
  int64_t outer, inner, stride;

  bool is_dense() const { return stride == inner || outer <= 1; }
  /// Memory for a dense copy, 0 where none is needed.
  size_t copy_bytes(size_t element) const {
    return is_dense() ? 0 : aligned(static_cast<size_t>(outer * inner) * element);
  }
};

Runs runs_of(const Product::Operand& operand, int64_t rows, int64_t cols) {
  return operand.col_stride == 1 ? Runs{rows, cols, operand.row_stride} : Runs{cols, rows, operand.col_stride};
}

void copy_runs(char* to, int64_t to_stride, const char* from, int64_t from_stride, const Runs& runs, size_t element) {
  const size_t bytes = static_cast<size_t>(runs.inner) * element;
#pragma omp parallel for schedule(static) if (runs.outer * runs.inner > 1 << 16)
  for (int64_t i = 0; i < runs.outer; ++i) {
    std::memcpy(to + static_cast<size_t>(i * to_stride) * element,
                from + static_cast<size_t>(i * from_stride) * element, bytes);
  }
}

/// Points `operand` at dense memory: where it lies if that is dense, else at a copy in `memory`, which moves on.
void make_dense(Product::Operand& operand, const Runs& runs, size_t element, char*& memory) {
  if (!runs.is_dense()) {
    copy_runs(memory, runs.inner, static_cast<const char*>(operand.data), runs.stride, runs, element);
    operand.data = memory;
    memory += runs.copy_bytes(element);
  }
}

/// A single row has one way to lie, also where it came as a transposed column: one key, one primitive, one set of bits.
void set_dense_strides(Product::Operand& operand, const Runs& runs) {
  if (operand.col_stride == 1) {
    operand.row_stride = runs.inner;
  } else if (runs.inner == 1) {
    operand.row_stride = runs.outer;
    operand.col_stride = 1;
  } else {
    operand.col_stride = runs.inner;
  }
}

void execute(const Prepared& prepared, const Product& p, void* scratchpad) {
  thread_local dnnl::stream stream(cpu_engine());
  const dnnl::engine& engine = cpu_engine();
  prepared.matmul->execute(stream, {{DNNL_ARG_SRC, {prepared.a, engine, const_cast<void*>(p.a.data)}},
                                    {DNNL_ARG_WEIGHTS, {prepared.b, engine, const_cast<void*>(p.b.data)}},
                                    {DNNL_ARG_DST, {prepared.c, engine, p.c}},
                                    {DNNL_ARG_SCRATCHPAD, {prepared.scratchpad, engine, scratchpad}}});
  stream.wait();
}

/// A product with how its operands lie, and what runs its dense form (null `matmul`: oneDNN has no implementation).
struct Plan {
  Product dense;
  Runs a, b, c;
  std::shared_ptr<const Prepared> prepared;
};

Plan plan(const Product& product) {
  Plan plan{product,
            runs_of(product.a, product.m, product.k),
            runs_of(product.b, product.k, product.n),
            {product.m, product.n, product.c_stride},
            nullptr};
  set_dense_strides(plan.dense.a, plan.a);
  set_dense_strides(plan.dense.b, plan.b);
  plan.dense.c_stride = product.n;
  plan.prepared = prepared_for(plan.dense);
  return plan;
}

/// Copies in what is not dense, multiplies, copies the result out.
void run(const Plan& plan) {
  const size_t element = static_cast<size_t>(dtype_size(plan.dense.dtype));
  Product dense = plan.dense;
  char* memory = static_cast<char*>(working_memory(plan.a.copy_bytes(element) + plan.b.copy_bytes(element) +
                                                   plan.c.copy_bytes(element) + plan.prepared->scratchpad.get_size()));
  make_dense(dense.a, plan.a, element, memory);
  make_dense(dense.b, plan.b, element, memory);
  if (plan.c.is_dense()) {
    return execute(*plan.prepared, dense, memory);
  }
  dense.c = memory;
  execute(*plan.prepared, dense, memory + plan.c.copy_bytes(element));
  copy_runs(static_cast<char*>(plan.dense.c), plan.c.stride, memory, plan.c.inner, plan.c, element);
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
  copy_runs(padded_a.data(), product.k, a, product.a.row_stride, {rows, product.k, product.k}, element);
  block.a = {padded_a.data(), product.k, 1};
  block.c = padded_c.data();
  block.c_stride = product.n;
  run(plan(block));
  copy_runs(c, product.c_stride, padded_c.data(), product.n, {rows, product.n, product.n}, element);
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
  const Plan whole = plan(product);
  if (!whole.prepared->matmul) {
    return false;
  }
  const bool is_weight_gradient = product.a.col_stride != 1;  // sums over the batch anyway
  if (whole.prepared->is_brgemm || is_weight_gradient) {
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
