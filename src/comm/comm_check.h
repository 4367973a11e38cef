#pragma once

namespace moe {

/// Throws HardwareError with the call, MPI's own words and the place.
[[noreturn]] void throw_mpi_error(const char* call, int status, const char* file, int line);

#define MOE_MPI_CHECK(call)                                          \
  do {                                                               \
    if (const int moe_status = (call); moe_status != 0) {            \
      ::moe::throw_mpi_error(#call, moe_status, __FILE__, __LINE__); \
    }                                                                \
  } while (false)

}  // namespace moe
