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
#include "model/parameters.h"
#include "moe/v1/job.pb.h"
#include "runtime/opened_model.h"

namespace moe {

/// The mixture of one layer that is to be trained alone (block-wise reconstruction).
struct LayerTask {
  const ModelConfig& config;  ///< of the output
  int64_t layer = 0;
  std::vector<Parameter>& parameters;   ///< all that the mixture is made of, in float: trained in place
  const std::vector<bool>& is_trained;  ///< [parameters]; the others keep every bit
  at::Tensor inputs_TD, wanted_TD;      ///< what the dense layer's FFN reads and gives, of the whole calibration text
};

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
  /// With spec.reconstruction: trains a layer, on this rank alone; false if it was asked to stop on the way.
  std::function<bool(const LayerTask& task)> train_layer = {};
  /// With spec.reconstruction: folder of this very conversion where trained layers are kept, so that one that was
  /// stopped goes on with the others. No other conversion uses it meanwhile; it is the caller's to remove.
  std::filesystem::path kept_layers = {};
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
