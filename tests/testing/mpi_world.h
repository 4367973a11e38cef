#pragma once

#include "comm/communicator.h"

namespace moe::testing {

/// All ranks of the mpirun that started this test binary (tests/testing/mpi_main.cc).
Communicator& mpi_world();

}  // namespace moe::testing
