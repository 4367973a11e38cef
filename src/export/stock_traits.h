#pragma once

#include <string>

#include "model/model_config.h"

/// What of a model decides which stock architectures hold it.
namespace moe {

inline constexpr char kMixtral[] = "mixtral", kGranite[] = "granitemoeshared", kQwen[] = "qwen2_moe",
                      kGlm[] = "glm4_moe", kSolar[] = "solar_open";

/// Whether routers of the architecture take sigmoids of their logits, and add a bias for the choice; the others take
/// softmaxes and have none.
bool has_sigmoid_routers(const std::string& layout);

/// Of experts that were chosen.
enum class ChosenWeights {
  kRenormalised,  ///< scores over their sum; also 1 where one expert is chosen
  kScores,        ///< as they are
  kOnes,          ///< each of several counts in full: no stock router gives that
  kGains,         ///< 1 + gain * score, the same
};
ChosenWeights chosen_weights(const MoeConfig& moe);

/// Whether its routers need sigmoids: where experts are chosen by logits alone and no score is a weight, softmaxes do
/// as well.
bool needs_sigmoids(const MoeConfig& moe);

bool has_shared_expert(const ModelConfig& config);

/// Whether every mixture has a shared expert with a gate of its own, so that qwen2_moe's 1e-20 stands nowhere.
bool has_gates_everywhere(const MoeConfig& moe);

/// Several experts of weight 1 in granitemoeshared, which takes the largest logits and then their softmax: routers
/// times 2^-40 choose the same and give each of k experts 1 / k, to 1e-6 as long as logits differ by less than a
/// million; down projections times k make up for it.
inline constexpr double kEvenRouterFactor = 0x1p-40;

}  // namespace moe
