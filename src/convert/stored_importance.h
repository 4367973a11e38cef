#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "convert/calibration_store.h"
#include "convert/layer_inputs.h"

namespace moe {

/// Whose importance is meant.
struct ImportanceKey {
  std::string calibration;  ///< digest of the text
  std::string model;        ///< and of the dense model
  std::string groups;       ///< ConversionMethod::groups_name, and ImportanceMeasure::name
};

/// The importance of every layer as an earlier conversion measured it, to the bit, if every rank sees it kept with the
/// calibration. Collective.
std::optional<std::vector<Importance>> kept_importance(const CalibrationStore& store, const ImportanceKey& key,
                                                       int64_t layers, Communicator& world);

/// Keeps it: the sums, [groups, FFN width] in double for each layer, and what the groups were told apart by.
/// Collective.
void keep_importance(const CalibrationStore& store, const ImportanceKey& key, const std::vector<Importance>& importance,
                     Communicator& world);

}  // namespace moe
