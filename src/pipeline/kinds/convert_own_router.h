#pragma once

#include <string>

#include "moe/v1/job.pb.h"
#include "pipeline/field_checks.h"

namespace moe {

/// How a router would be made, of a conversion whose method makes its own: refused where it is not what the defaults
/// are, which an effective spec has. `given`: as written; `usual`: as it is without init and scaling. `checks` are at
/// the conversion.
void check_own_router(const v1::RouterSpec& given, const v1::RouterSpec& usual, const std::string& method,
                      const FieldChecks& checks);

}  // namespace moe
