#pragma once

#include <filesystem>

#include "convert/converter.h"
#include "worker/job_context.h"

/// What a conversion with a reconstruction takes from elsewhere: the training is one of train/, which convert/ does not
/// know, and the trained layers lie in the job's folder, which outlives attempts.
namespace moe {

/// Folder of this configuration, as it was begun last with --fresh, below <job>/reconstruction.
std::filesystem::path kept_layers_of(const JobContext& context);

/// As ConvertRequest::train_layer.
bool train_task(const LayerTask& task, const JobContext& context);

/// The conversion is committed: removes the layers that were kept for it. Collective.
void forget_kept_layers(const JobContext& context);

}  // namespace moe
