#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/configuration.h"

namespace moe {

/// Throws InvalidArgument, on every rank, that names each data file of which a job read something else (`read`: path ->
/// digest, the same on all ranks) than its configuration records: the file was changed after it was recorded, and the
/// result would be told to be of what the file held before.
void require_recorded(const Configuration& configuration, const std::map<std::string, std::string>& read);

/// What the stages of a pipeline read: resolves references to models, and gives a stage the configuration that tells
/// whether its result is there already. Used by rank 0.
class StageInputs {
 public:
  /// Reads every file that the pipeline names, so that a missing or unreadable one is found before anything runs.
  /// Throws InvalidArgument that names it.
  explicit StageInputs(const v1::PipelineSpec& effective);

  /// After a stage has its output: its folder and digest, for stages that read "<stage>.model".
  void add_output(const std::string& stage, const std::filesystem::path& folder, const std::string& digest);

  /// Folder of "dense" (a pipeline input), "<stage>.model" or a path.
  std::filesystem::path model_path(const std::string& reference) const;

  /// The effective stage and digests of all that it reads.
  Configuration configuration_of(const v1::Stage& stage) const;

 private:
  struct Output {
    std::filesystem::path folder;
    std::string digest;
  };
  std::map<std::string, std::string> input_paths_;   ///< pipeline input -> path
  std::map<std::string, Output> outputs_;            ///< "<stage>.model" -> output
  std::map<std::string, std::string> file_digests_;  ///< model folder or data file -> digest

  std::string model_digest(const std::string& reference) const;
};

}  // namespace moe
