#pragma once

#include <string>

#include "moe/v1/job.pb.h"
#include "pipeline/field_checks.h"

/// convert.attention, its router and scale aside, which are those of every part: the row of convert asks these.
namespace moe {

void fill_attention_experts(v1::AttentionExpertsSpec& attention, bool is_published);

/// `checks` are at the section.
void check_attention_experts(const v1::AttentionExpertsSpec& attention, const FieldChecks& checks);

/// Whether the grouping looks at calibration text.
bool attention_reads_text(const v1::AttentionExpertsSpec& attention);

/// The experts of the first part that expert_parallel does not divide; 0 if it divides those of each.
int experts_not_divided(const v1::ConvertSpec& convert, int expert_parallel);

/// "attention in 8 experts, top-6".
std::string attention_plan(const v1::AttentionExpertsSpec& attention);

}  // namespace moe
