#pragma once

#include <filesystem>
#include <memory>

#include "common/file_io.h"
#include "convert/converter.h"
#include "worker/job_context.h"

/// What a conversion with a reconstruction takes from elsewhere: the training is one of train/, which convert/ does not
/// know, and the trained layers lie in the job's folder, which outlives attempts.
namespace moe {

/// The folder of a conversion's trained layers, below <job>/reconstruction, and of this gang alone as long as this
/// lives: that of the configuration, as it was begun last with --fresh. A gang that lost its lease may still be at work
/// there; then it is one of this attempt's own, where nothing is kept yet, so that neither writes or removes what the
/// other reads, and nobody waits for a gang that is stuck. Lives from before the first layer is looked for until the
/// conversion has ended. Collective.
class KeptLayers {
 public:
  explicit KeptLayers(const JobContext& context);

  const std::filesystem::path& folder() const { return folder_; }
  /// The conversion is committed: removes the layers that were kept for it. Collective.
  void forget() const;

 private:
  const JobContext& context_;
  std::unique_ptr<FileLock> lock_;  ///< on rank 0; null in a folder of the attempt's own, and where there are no locks
  std::filesystem::path folder_;
};

/// As ConvertRequest::train_layer.
bool train_task(const LayerTask& task, const JobContext& context);

}  // namespace moe
