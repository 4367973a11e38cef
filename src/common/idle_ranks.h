#pragma once

#include <cstdint>
#include <string>

#include "common/error.h"

namespace moe {

/// What is said of ranks that get no row of any global micro-batch, by whoever knows how many there are: a pipeline's
/// check, of the gang it asks for, or the trainer, of the one that it runs in. Empty if there are none.
inline std::string idle_ranks(int64_t ranks, int64_t micro_batch_rows) {
  if (ranks <= micro_batch_rows) return "";
  return concat(ranks - micro_batch_rows, " of ", ranks,
                " ranks get no row of a global micro-batch, which has micro_batch_rows ", micro_batch_rows,
                ": they idle, or run experts for the others; raise micro_batch_rows to a multiple of ", ranks,
                " (and lower micro_steps), or use at most ", micro_batch_rows, " ranks");
}

}  // namespace moe
