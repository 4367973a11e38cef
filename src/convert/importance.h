#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "convert/calibration_text.h"
#include "convert/conversion_method.h"
#include "convert/dense_source.h"

namespace moe {

/// What is summed over tokens: a function of h * dL/dh or of dL/dh, and what L is.
struct ImportanceMeasure {
  std::string loss = "sum";           ///< "sum" over all tokens, or the "mean" of each document's
  std::string worth = "change";       ///< h dL/dh, or "gradient": dL/dh
  std::string kernel = "l1_norm";     ///< its absolute value, "l2_norm": its square, or "plain": itself
  std::string accumulate = "tokens";  ///< the kernel is of each token, or, with "total", of the sum over all

  /// By the options of these names, of a method that has them.
  static ImportanceMeasure of(const MethodOptions& options);
  /// Empty for the default.
  std::string name() const;
};

/// What an importance pass is made for.
struct ImportanceRequest {
  const v1::ConvertSpec& spec;
  uint64_t seed = 0;
  const MethodOptions& options = MethodOptions::none();  ///< of the method, for its groups
  GroupTokens group_tokens{};                            ///< absent: one group
  ImportanceMeasure measure{};
  std::function<void(int64_t layers_done)> progress{};  ///< after each layer's backward
};

/// The importance of every neuron of every layer on the calibration text. Forward through the dense model, keeping each
/// layer's input; then the loss, and backward layer by layer, each computed again a row of text at a time. No weight
/// has a gradient and none is updated. In the type of `model`, products and sums in float64, in one order (RowSums):
/// the same bits at any number of ranks. Collective.
///
/// Cost     about three forwards, and one of attention where tokens are grouped by layer; memory: a layer (and the
///          head), [layers + 1, T, D] of this rank's tokens, one row of text through a layer with what its backward
///          needs, and in float64 [G, F] for every layer, which is returned, and 4 log2(rows) times for the one at
///          hand.
/// Throws   InvalidArgument on every rank where a score is not finite; what reading the model throws.
std::vector<Importance> measure_importance(const DenseSource& model, const CalibrationText& text,
                                           const ImportanceRequest& request, Communicator& world);

}  // namespace moe
