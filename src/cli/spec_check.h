#pragma once

#include <string>
#include <vector>

#include "moe/v1/job_service.pb.h"
#include "pipeline/problem.h"
#include "pipeline/spec.h"

/// A pipeline file on its way to the coordinator: read, checked here, its paths made absolute; and the coordinator's
/// findings brought back to lines of the file.
namespace moe {

struct SubmittedFile {
  LoadedPipeline loaded;
  /// What the coordinator finds as well in what could be parsed: told here already, or only the echo of a field that
  /// could not be read.
  Problems expected;
};

/// Throws InvalidArgument if the file cannot be read; everything else is in loaded.problems.
SubmittedFile read_submitted_file(const std::string& file, const std::vector<std::string>& assignments);

/// The local problems and those of the coordinator that are news, each with its line.
Problems merged_problems(const SubmittedFile& file, const v1::SubmitResponse& answer);

/// The plan of a valid file: a table of stages with their ranks.
std::string plan_text(const v1::PipelineSpec& effective, int width);

}  // namespace moe
