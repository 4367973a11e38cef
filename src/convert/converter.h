#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "comm/communicator.h"
#include "common/registry.h"
#include "common/work_monitor.h"
#include "convert/calibration_text.h"
#include "convert/conversion_methods.h"
#include "moe/v1/job.pb.h"
#include "runtime/opened_model.h"

namespace moe {

struct ConvertRequest {
  const v1::ConvertSpec& spec;  ///< effective: all defaults filled in
  uint64_t seed = 0;
  const ModelDirectory& source;  ///< dense
  ModelText text;                ///< by which calibration text is read
  std::filesystem::path output;  ///< must not exist
  WorkMonitor& monitor;          ///< told of the calibration files, and of each layer each time that a method sees it
  /// Further dense models of the same shape, that plans may take neurons from (NeuronRun::model 1, 2, ...).
  std::vector<const ModelDirectory*> others = {};
  /// Where calibrations are kept for later conversions (convert/calibration_store.h); empty: nowhere.
  std::filesystem::path calibrations = {};
  /// Told of the calibration text, on every rank, as soon as it is read. Collective.
  std::function<void(const CalibrationText& text)> text_read = {};
  const Registry<ConversionMethod>& methods = conversion_methods();  ///< that spec.ffn.method is a name of
};

/// Converts a dense model, layer by layer from the mapped source into the output: memory is bounded by the larger of a
/// layer and the embedding, plus the calibration tokens' hidden states (of every layer at once where the method needs
/// gradients). Collective: calibration is spread over the ranks (no bit of the result depends on their number), rank 0
/// writes. With text, every rank measures the written model before it takes its place (step0_receipt.h). The output is
/// a native model directory with conversion.safetensors and conversion.json; it appears whole or not at all. Returns
/// conversion.json's contents. Throws InvalidArgument, StorageError; the same on all ranks.
nlohmann::json convert_model(const ConvertRequest& request, Communicator& world);

}  // namespace moe
