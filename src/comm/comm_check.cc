#include "comm/comm_check.h"

#include <mpi.h>

#include "common/error.h"

namespace moe {

void throw_mpi_error(const char* call, int status, const char* file, int line) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw HardwareError(concat(call, " failed: ", std::string(text, length), " (", file, ":", line, ")"));
}

}  // namespace moe
