#pragma once

#include "moe/v1/job.pb.h"
#include "pipeline/field_checks.h"

/// The fields of a conversion that makes experts of several models: ffn.others and ffn.prompts.
namespace moe {

/// Routed experts: as many as asked for, or one a model where several are given and no number is.
int expert_count(const v1::FfnExpertsSpec& ffn);

/// Of an `effective` conversion of FFNs; and that nothing brings the experts of all models to the FFN of one. `checks`
/// are at the conversion.
void check_merged_models(const v1::ConvertSpec& effective, const FieldChecks& checks);

}  // namespace moe
