#pragma once

#include "metrics/coordinator_metrics.h"

namespace moe {

/// The label values that the coordinator's counters may have, from where each is defined: the services' methods and the
/// codes of their comments, the kinds of jobs, the final states, the reasons of operation.h.
CoordinatorLabels metric_labels();

}  // namespace moe
