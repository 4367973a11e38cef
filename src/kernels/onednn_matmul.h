#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>

#include "kernels/views.h"

/// Products of dense matrices by oneDNN: one primitive per shape, made once and kept. Called by the CPU's matmul alone,
/// which asks for few shapes (prepared_count). Any number of threads may call at once and share a primitive; each
/// brings its own scratchpad.
namespace moe::kernels {

/// An extent that a primitive is told when it runs.
inline constexpr int64_t kOpen = -1;

/// c[m, n] = a[m, k] b[k, n], all dense. With `slices` above 1, a is [m, slices * k] and b is stored transposed,
/// [n, slices * k]; slice s of their columns gives the matrix c[s], and c is [slices, m, n]: sums that the caller adds
/// up.
struct DenseShape {
  DType dtype;
  int64_t m, n, k;  ///< k kOpen: any, told when it runs (fp32, a transposed, b not)
  int64_t slices = 1;
  bool a_is_transposed = false;  ///< stored as [k, m]
  bool b_is_transposed = false;  ///< stored as [n, k]
};

/// A primitive ready to run. `matmul` is empty where oneDNN has none for this processor (bf16 without AVX-512).
struct OneDnnMatmul {
  std::optional<dnnl::matmul> matmul;
  bool is_brgemm = false;  ///< its row bits do not depend on the other rows
  dnnl::memory::desc a, b, c, scratchpad;

  /// The scratchpad has scratchpad.get_size() bytes, aligned as working_memory gives them. `k` is needed where it is
  /// open.
  void run(const void* a_data, const void* b_data, void* c_data, void* scratchpad_data, int64_t k = kOpen) const;
};

/// The least number from `count` on that has at most five significant bits: 1 to 32, then 16 numbers for each doubling,
/// at most a sixteenth above `count`. Row counts vary without end (a token chooses its expert), and oneDNN compiles
/// code for each; with these alone, products of one weight of up to 4096 rows need 144 primitives, and most meet some
/// ten.
int64_t prepared_count(int64_t count);

/// Rows of the runs that a product of `rows` rows is made of where a row does not depend on the others: all of them if
/// that is a prepared count; else a prepared count of about half, for the first rows and, overlapping, for the last.
/// Rows computed twice get the same bits; nothing is copied or padded.
int64_t rows_of_a_run(int64_t rows);

/// From the cache, or made: for the threads that the caller's OpenMP regions have.
std::shared_ptr<const OneDnnMatmul> onednn_matmul(const DenseShape& shape);

/// Memory of the calling thread, as large as the most that it asked for; its contents last until it asks again.
void* working_memory(size_t bytes);
/// Rounded up to the alignment of working memory: a cache line, and the widest vector.
size_t aligned(size_t bytes);

}  // namespace moe::kernels
