#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>

namespace moe::kernels {

/// Calls body(i) for i in [0, count): each on one OpenMP thread where there are at least twice as many as threads, so
/// that no product is shared between threads; else one after the other on the calling thread, whose products use all
/// threads. The first exception seen is thrown when all have ended. For products of one operation (slices' tiles,
/// experts) on the CPU.
template <typename Body>
void for_each_index(int64_t count, const Body& body) {
  if (omp_in_parallel() || count < 2 * omp_get_max_threads()) {
    for (int64_t i = 0; i < count; ++i) {
      body(i);
    }
    return;
  }
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < count; ++i) {
    try {
      body(i);
    } catch (...) {
#pragma omp critical(moe_thread_tasks_failure)
      failure = std::current_exception();
    }
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
}

}  // namespace moe::kernels
