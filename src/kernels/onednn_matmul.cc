// A primitive is made for one shape and kept. Measured on one thread of an AMD EPYC with avx512_bf16, oneDNN 2.6.3:
//   making one               100-400 us (it compiles code), 50 KB; even out of oneDNN's own cache 5 us
//   [200, 256] x [256, 96]   94 us in fp32, 48 us in bf16
//   row count left open      10 us to make, as fast in fp32, up to 2x slower in bf16 at odd widths
// An open row count would spare remaking when an expert's row count changes, but it takes another implementation (jit
// gemm instead of brgemm) whose row bits do depend on the batch: 358 of 1120 sub-batches differed in fp32 and 3 in
// bf16; with given shapes none did. So rows are computed in runs of prepared counts.
// Weight gradients sum over rows, so no row of theirs depends on others: in fp32 their row count is open (against a
// primitive of the very shape 0.81 to 1.14 times the time, mean 0.98, over 5 weights and 37 to 2000 rows; nothing is
// copied). In bf16 jit gemm needs up to twice the time at odd widths: operands are filled with zero rows up to a
// prepared count, which changed no bit of 60 products (a tenth more time at 37 to 200 rows).
#include "kernels/onednn_matmul.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <new>
#include <string_view>

#include "kernels/lru_cache.h"
#include "kernels/matmul_cpu.h"

namespace moe::kernels {
namespace {

/// Bounds the cache at about 100 MB.
constexpr size_t kMaxPrimitives = 2048;

constexpr size_t kAlignment = 64;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

using Dims = dnnl::memory::dims;

/// Fills in how the three matrices lie.
void describe(const DenseShape& s, OneDnnMatmul& made) {
  const auto type = s.dtype == DType::kBFloat16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  if (s.k == kOpen) {
    made.a = {{s.m, DNNL_RUNTIME_DIM_VAL}, type, Dims{1, s.m}};
    made.b = {{DNNL_RUNTIME_DIM_VAL, s.n}, type, Dims{s.n, 1}};
    made.c = {{s.m, s.n}, type, Dims{s.n, 1}};
    return;
  }
  if (s.slices == 1) {
    made.a = {{s.m, s.k}, type, s.a_is_transposed ? Dims{1, s.m} : Dims{s.k, 1}};
    made.b = {{s.k, s.n}, type, s.b_is_transposed ? Dims{1, s.k} : Dims{s.n, 1}};
    made.c = {{s.m, s.n}, type, Dims{s.n, 1}};
    return;
  }
  // A batch over slices that lie side by side. It has four dimensions because brgemm takes such a layout only so.
  const int64_t row = s.slices * s.k;
  made.a = {{1, s.slices, s.m, s.k}, type, Dims{s.m * row, s.k, row, 1}};
  made.b = {{1, s.slices, s.k, s.n}, type, Dims{s.n * row, s.k, 1, row}};
  made.c = {{1, s.slices, s.m, s.n}, type, Dims{s.slices * s.m * s.n, s.m * s.n, s.n, 1}};
}

std::atomic<int64_t> primitives_made{0};

std::shared_ptr<const OneDnnMatmul> make(const DenseShape& shape) {
  ++primitives_made;
  auto made = std::make_shared<OneDnnMatmul>();
  describe(shape, *made);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // several threads may run one primitive at a time
  try {
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(made->a, made->b, made->c), attributes,
                                                   cpu_engine());
    made->scratchpad = description.scratchpad_desc();
    made->matmul.emplace(description);
    made->is_brgemm = std::string_view(description.impl_info_str()).substr(0, 3) == "brg";
  } catch (const dnnl::error& error) {
    if (error.status != dnnl_unimplemented) {
      throw;
    }
  }
  return made;
}

}  // namespace

void OneDnnMatmul::run(const void* a_data, const void* b_data, void* c_data, void* scratchpad_data, int64_t k) const {
  thread_local dnnl::stream stream(cpu_engine());
  const dnnl::engine& engine = cpu_engine();
  dnnl::memory::desc a_now = a, b_now = b;
  if (k != kOpen) {
    const int64_t m = c.dims()[0], n = c.dims()[1];
    a_now = {{m, k}, a.data_type(), Dims{1, m}};
    b_now = {{k, n}, b.data_type(), Dims{n, 1}};
  }
  matmul->execute(stream, {{DNNL_ARG_SRC, {a_now, engine, const_cast<void*>(a_data)}},
                           {DNNL_ARG_WEIGHTS, {b_now, engine, const_cast<void*>(b_data)}},
                           {DNNL_ARG_DST, {c, engine, c_data}},
                           {DNNL_ARG_SCRATCHPAD, {scratchpad, engine, scratchpad_data}}});
  stream.wait();
}

std::shared_ptr<const OneDnnMatmul> onednn_matmul(const DenseShape& s) {
  static LruCache<8, std::shared_ptr<const OneDnnMatmul>> cache(kMaxPrimitives);
  const int64_t threads = omp_in_parallel() ? 1 : omp_get_max_threads();
  return cache.get(
      {static_cast<int64_t>(s.dtype), s.m, s.n, s.k, s.slices, s.a_is_transposed, s.b_is_transposed, threads},
      [&s] { return make(s); });
}

int64_t prepared_products() {
  return primitives_made;
}

int64_t prepared_count(int64_t count) {
  constexpr int kSignificantBits = 5;
  const int bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(count)));
  const int64_t step = int64_t{1} << std::max(0, bits - kSignificantBits);
  return (count + step - 1) / step * step;
}

int64_t rows_of_a_run(int64_t rows) {
  return prepared_count(rows) == rows ? rows : prepared_count((rows + 1) / 2);
}

size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void* working_memory(size_t bytes) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local size_t size = 0;
  if (bytes > size) {
    memory.reset();
    size = 0;
    memory.reset(std::aligned_alloc(kAlignment, aligned(bytes)));
    if (memory == nullptr) {
      throw std::bad_alloc();
    }
    size = aligned(bytes);
  }
  return memory.get();
}

}  // namespace moe::kernels
