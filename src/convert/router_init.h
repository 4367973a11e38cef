#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "common/registry.h"
#include "common/rng.h"
#include "convert/feature_clusters.h"
#include "convert/layer_inputs.h"
#include "convert/method_options.h"
#include "model/moe/router.h"

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
  RouterGate gate = RouterGate::kLinear;
  MethodOptions options{};  ///< the init's own: router_init_options()
  // For inits that need experts:
  int64_t top_k = 0;
  const FeedForwardWeights* dense = nullptr;    ///< of the layer, in float
  std::vector<std::vector<int32_t>> neurons{};  ///< of the dense FFN, by expert
};

/// How a router was taught, on tokens that it was not taught with.
struct RouterLessons {
  double recall = 0;            ///< of the router: share of the experts that it should choose that it chooses
  std::vector<double> losses;   ///< nats per token (bce: and expert): before the first epoch and after each
  std::vector<double> recalls;  ///< likewise
};

/// A router as an init makes it, in float.
struct InitialRouter {
  RouterWeights weights;
  std::optional<RouterLessons> lessons{};  ///< of one that is taught
};

/// Makes a layer's router, the same on every rank. Collective over `world`.
struct RouterInit {
  std::string summary;
  bool needs_features = false;
  std::function<InitialRouter(const RouterRequest&, Communicator& world)> make;
  /// Why so few calibration tokens cannot make so many rows, as the end of an error; empty if they can. Absent: any do.
  std::function<std::string(int64_t experts, int64_t tokens)> text_problem{};
  std::vector<MethodOption> options{};  ///< settings of its own: keys of router.options
  bool needs_experts = false;           ///< RouterRequest::dense and neurons: experts that are cut from the dense FFN
};

/// THE list of router initialisations.
const Registry<RouterInit>& router_inits();

/// The settings of the init that the spec names, defaults filled in. `section`: as of RouterRequest. Throws
/// InvalidArgument.
MethodOptions router_init_options(const v1::RouterSpec& router, const std::string& preset,
                                  const std::string& section = "");

/// How hidden_clustering groups tokens, and what else groups them as that router does: by the spec's options where that
/// is its init, else by their defaults. Numbers of clusters, seed and layer are left to the caller.
TokenClustering token_clustering(const v1::ConvertSpec& spec);

/// The settings of that clustering which are not the defaults, " jitter=0.1 metric=l2": what is kept of groups is named
/// by them besides.
std::string clustering_name(const v1::ConvertSpec& spec);

/// Rows as a router of the gate, whose logits order experts as those of the rows do: B of two layers is the identity;
/// of a product both matrices are the rows at length 1, and logits are |r silu(r)|.
RouterWeights router_of_rows(const at::Tensor& rows_ED, RouterGate gate);

/// Each expert of a router as so many, one after the other, with equal logits.
RouterWeights in_groups_of(const RouterWeights& router, int64_t group);

/// Standard deviation of the logits over all calibration tokens and experts. Collective.
double router_logit_deviation(const RouterWeights& router, RouterGate gate, const CalibrationFeatures& features,
                              Communicator& world);

}  // namespace moe
