#pragma once

#include <nlohmann/json.hpp>

#include "pipeline/gate.h"

namespace moe {

/// The numbers of a conversion's receipt (convert/step0_receipt.h) as gates name them: step0_*. NaN where one is not
/// finite.
Metrics receipt_metrics(const nlohmann::json& receipt);

}  // namespace moe
