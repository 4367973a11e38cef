#pragma once

#include "moe/v1/job.pb.h"
#include "pipeline/field_checks.h"

namespace moe {

/// The gate of shared experts where none is named, and the scale at which one that begins at 0 lets them count in full.
void fill_shared_gate(v1::FfnExpertsSpec& ffn);

/// A gate that has nothing to weigh, and a scale without a gate. `ffn`: effective; `checks` are at the conversion.
void check_shared_gate(const v1::FfnExpertsSpec& ffn, const FieldChecks& checks);

}  // namespace moe
