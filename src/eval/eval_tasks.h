#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "common/registry.h"
#include "eval/perplexity.h"
#include "moe/v1/job.pb.h"
#include "parallel/mesh.h"
#include "runtime/loaded_model.h"

namespace moe {

/// A model under evaluation, and what the job file says about it.
struct EvalSubject {
  const LoadedModel& model;
  Mesh& mesh;
  const v1::EvaluateSpec& spec;
  /// The spec's data as held-out rows of the model, read once for all its tasks. Collective; throws agreed errors,
  /// StorageError if the ranks read unlike files.
  std::function<HeldOutData&()> data;
  std::function<void(int64_t done, int64_t all)> progress;
  PassChoice choice{};
};

/// Measures something of a model.
struct EvalTask {
  std::string summary;  ///< one line
  /// The number that a model and its baseline are compared by: "loss_ratio_to_baseline" of "loss".
  std::string main_measure;
  /// {number: .., "domains": {domain: {number: ..}}}, numbers by the names of common/measures.h, and whatever reports
  /// draw besides. The same on every rank. Collective.
  std::function<nlohmann::json(const EvalSubject&)> run;
};

/// THE list of evaluation tasks. No two measure a number of the same name.
const Registry<EvalTask>& eval_tasks();

}  // namespace moe
