#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>

#include "comm/communicator.h"
#include "common/registry.h"
#include "common/rng.h"
#include "convert/layer_inputs.h"

namespace moe {

struct RouterRequest {
  int64_t experts = 0;
  int64_t hidden_size = 0;
  int64_t layer = 0;
  uint64_t seed = 0;
  std::string scaling = "calibrated";  ///< of rows taken from text: "calibrated" or "raw"
  const CalibrationFeatures* features = nullptr;
  RngStream stream = kStreamRouter;
  std::string section{};  ///< of the job file that the router stands in, for messages: "" or "attention."
  /// feature_centroids() of these features in as many clusters as experts, where a method has them already.
  at::Tensor centroids_ED{};
};

/// Makes a layer's router [experts, hidden] in float, the same on every rank. Collective over `world`.
struct RouterInit {
  std::string summary;
  bool needs_features = false;
  std::function<at::Tensor(const RouterRequest&, Communicator& world)> make;
  /// Why so few calibration tokens cannot make so many rows, as the end of an error; empty if they can. Absent: any do.
  std::function<std::string(int64_t experts, int64_t tokens)> text_problem{};
};

/// THE list of router initialisations.
const Registry<RouterInit>& router_inits();

/// Standard deviation of x W^T over all calibration tokens and experts. Collective.
double router_logit_deviation(const at::Tensor& router_ED, const CalibrationFeatures& features, Communicator& world);

}  // namespace moe
