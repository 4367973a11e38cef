#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "common/registry.h"
#include "moe/v1/job.pb.h"
#include "parallel/mesh.h"
#include "runtime/loaded_model.h"

namespace moe {

/// A model under evaluation, and what the job file says about it.
struct EvalSubject {
  const LoadedModel& model;
  Mesh& mesh;
  const v1::EvaluateSpec& spec;
  std::function<void(int64_t done, int64_t all)> progress;
  /// As EvaluateRequest has it.
  std::function<void(const std::map<std::string, std::string>& digests)> on_data_read = {};
};

/// Measures one thing; the result is the same on every rank. Collective.
using EvalTask = std::function<nlohmann::json(const EvalSubject&)>;

/// THE list of evaluation tasks.
const Registry<EvalTask>& eval_tasks();

}  // namespace moe
