#pragma once

#include <string>

#include "moe/v1/job.pb.h"
#include "pipeline/field_checks.h"

/// convert.attention, its router and scale aside, which are those of every part: the row of convert asks these.
namespace moe {

void fill_attention_experts(v1::AttentionExpertsSpec& attention);

/// `checks` are at the section.
void check_attention_experts(const v1::AttentionExpertsSpec& attention, const FieldChecks& checks);

/// Whether the grouping looks at calibration text.
bool attention_reads_text(const v1::AttentionExpertsSpec& attention);

/// "attention in 8 experts, top-6".
std::string attention_plan(const v1::AttentionExpertsSpec& attention);

}  // namespace moe
