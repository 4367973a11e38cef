#pragma once

#include "moe/v1/job.pb.h"
#include "pipeline/field_checks.h"

/// convert.reconstruction: the row of convert asks these.
namespace moe {

void fill_reconstruction(v1::ReconstructionSpec& reconstruction);

/// `effective` has such a section; `checks` are at it.
void check_reconstruction(const v1::ConvertSpec& effective, const FieldChecks& checks);

/// Whether the loss gives the router no gradient: weights of 1 whatever it says, as `unit` has, and `renorm` of one
/// expert.
bool is_weightless(const v1::RouterSpec& router, int top_k);

}  // namespace moe
