#pragma once

#include "report/pipeline_report.h"

namespace moe::testing {

/// A report as the quickstart leaves it: a dense model, its conversion, two training stages, four domains, six layers
/// of eight experts. Numbers are made up, seeded, and of the right size.
PipelineReport sample_report();

/// The report of a pipeline that compares nine conversions, all measured and all but one trained, with a dense model
/// beside them.
PipelineReport sample_comparison();

/// The same with everything hostile that a name can hold: markup, quotes, line breaks, bytes that are no UTF-8.
PipelineReport hostile_report();

}  // namespace moe::testing
