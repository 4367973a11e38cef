#pragma once

#include <cstdint>

#include "worker/model_check.h"

namespace moe {

/// A model allows rows as long as the one does that it was made of: adds where one that the stage reads allows fewer
/// than `length`, its sequence_length.
void check_row_length(const v1::Stage& stage, int64_t length, PipelineModels& models, const FieldChecks& checks);

}  // namespace moe
