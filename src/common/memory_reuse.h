#pragma once

#include <malloc.h>

namespace moe {

/// From now on the process keeps memory that it frees for its next allocations: a training step allocates what the step
/// before freed, hundreds of megabytes, and fetching those pages from the system anew takes a tenth of a small model's
/// step. Called once, at the start of training.
inline void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kGibibyte = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, kGibibyte);  // large tensors come from the heap as well,
  mallopt(M_TRIM_THRESHOLD, kGibibyte);  // whose end is not given back
#endif
}

}  // namespace moe
