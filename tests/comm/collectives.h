#pragma once

#include "comm/communicator.h"

namespace moe::testing {

/// Every collective against what it must give, on any communicator.
void check_collectives(Communicator& world);

}  // namespace moe::testing
