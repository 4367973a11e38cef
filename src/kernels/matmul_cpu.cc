// The CPU's matrix product on oneDNN.
//
// A primitive is made for one exact shape and kept. Measured with oneDNN 2.6.3 on an AMD EPYC with avx512_bf16, 1 thread:
//   making one               100-400 us (it compiles code), 50 KB; asking oneDNN's own cache again 4.5 us; ours 0.3 us
//   [200, 256] x [256, 96]   94 us in fp32, 48 us in bf16
//   row count left open      10 us to make, as fast in fp32, up to 2x slower in bf16 at odd widths
// An open row count would spare remaking when an expert's row count changes, but it takes another implementation (jit gemm
// instead of brgemm) whose row bits do depend on the batch: 690 of 1120 sub-batches differed in fp32, none of 1120 with
// exact shapes. Experts of a run see a few hundred row counts, so making them all costs under a second in total.
#include "kernels/matmul_cpu.h"

#include <omp.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>

#include "common/error.h"
#include "kernels/lru_cache.h"
#include "kernels/view_checks.h"

namespace moe::kernels {
namespace {

/// Bounds the cache at about 100 MB.
constexpr size_t kMaxPrimitives = 2048;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

/// A primitive ready to run. `matmul` is empty where oneDNN has none for this processor (bf16 without AVX-512).
struct Prepared {
  std::optional<dnnl::matmul> matmul;
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
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(prepared->a, prepared->b, prepared->c), attributes,
                                                   cpu_engine());
    prepared->scratchpad = description.scratchpad_desc();
    prepared->matmul.emplace(description);
  } catch (const dnnl::error& error) {
    if (error.status != dnnl_unimplemented) {
      throw;
    }
  }
  return prepared;
}

/// Under all that a primitive is made for.
std::shared_ptr<const Prepared> prepared_for(const Product& p) {
  static LruCache<10, std::shared_ptr<const Prepared>> cache(kMaxPrimitives);
  const int64_t threads = omp_in_parallel() ? 1 : omp_get_max_threads();
  return cache.get({static_cast<int64_t>(p.dtype), p.m, p.n, p.k, p.a.row_stride, p.a.col_stride, p.b.row_stride,
                    p.b.col_stride, p.c_stride, threads},
                   [&p] { return prepare(p); });
}

/// Working memory of the calling thread, as large as the largest product that it ran.
void* scratchpad(size_t bytes) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local size_t size = 0;
  if (bytes > size) {
    constexpr size_t kAlignment = 64;
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

void execute(const Prepared& prepared, const Product& p) {
  thread_local dnnl::stream stream(cpu_engine());
  const dnnl::engine& engine = cpu_engine();
  prepared.matmul->execute(
      stream, {{DNNL_ARG_SRC, {prepared.a, engine, const_cast<void*>(p.a.data)}},
               {DNNL_ARG_WEIGHTS, {prepared.b, engine, const_cast<void*>(p.b.data)}},
               {DNNL_ARG_DST, {prepared.c, engine, p.c}},
               {DNNL_ARG_SCRATCHPAD, {prepared.scratchpad, engine, scratchpad(prepared.scratchpad.get_size())}}});
  stream.wait();
}

}  // namespace

void matmul_cpu(const Product& product) {
  if (product.dtype == DType::kFloat64 || product.k == 0) {
    return matmul_plain(product);
  }
  try {
    const std::shared_ptr<const Prepared> prepared = prepared_for(product);
    if (prepared->matmul) {
      return execute(*prepared, product);
    }
  } catch (const dnnl::error& error) {
    throw HardwareError(concat("oneDNN matmul [", product.m, ", ", product.k, "] x [", product.k, ", ", product.n, "] ",
                               dtype_name(product.dtype), " failed with status ", static_cast<int>(error.status), ": ",
                               error.what()));
  }
  matmul_plain(product);
}

}  // namespace moe::kernels
