#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/perplexity.h"
#include "parallel/mesh.h"
#include "runtime/loaded_model.h"

namespace moe {

/// Whether the experts of a layer's FFN or attention live: one can die while its load looks fine. By expert, as the
/// analyses `weights` and `activation_scale` have it.
struct ExpertVitality {
  int64_t layer = 0;
  std::string part;                  ///< "ffn" | "attention"
  std::vector<double> weight_norm;   ///< root of the sum of squares of its weights and biases
  std::vector<double> weight_rms;    ///< root of their mean, by which experts of other widths can be compared
  std::vector<double> output_share;  ///< of an FFN: norm of what it adds to the output, over that of all and the shared
};

/// Rows of each held-out file whose tokens output_share is summed over.
inline constexpr int64_t kVitalityRows = 4;

/// Those of the FFNs by layer, then those of attention; empty of a dense model. The same on every rank and, up to the
/// rounding of the model's own sums, at any layout. `choice` as of measure_tokens(). Computes no gradient. Collective
/// over mesh.world().
/// Cost     a forward pass over those rows, and the chosen experts once more; a pass over the experts' weights. Memory:
///          a few copies of one slot's outputs [T, D], or of one expert.
std::vector<ExpertVitality> measure_expert_vitality(const LoadedModel& model, HeldOutData& data, Mesh& mesh,
                                                    const PassChoice& choice = {});

/// The least over the mean: 0 where all are 0, NaN where one is not finite.
double least_over_mean(const std::vector<double>& values);

/// That of the worst; 1 where no part has these values. NaN as above.
double worst_of(const std::vector<ExpertVitality>& parts, std::vector<double> ExpertVitality::*values);

}  // namespace moe
