#pragma once

#include <string>
#include <vector>

#include "convert/conversion_method.h"
#include "convert/converter.h"

namespace moe {

/// Refuses a conversion that cannot be done, before anything is read or written. Throws InvalidArgument with the value
/// and what it may be.
void check_request(const ConvertRequest& request);

/// Refuses a method that cannot convert the FFNs of this model. `where` is the model's path. Throws InvalidArgument
/// with the reason.
void check_applies(const std::string& name, const ConversionMethod& method, const ModelConfig& config,
                   const std::string& where);

/// [layers]: which layers become mixtures, as ffn.layers says. Throws InvalidArgument with the item that is wrong.
std::vector<bool> mixtures_of(const v1::FfnExpertsSpec& ffn, const ModelConfig& config);

/// Whether a conversion runs the calibration text through the layers: where method, router or scale ask for it, and
/// wherever text is given, for the report.
bool needs_calibration(const ConversionMethod& method, const v1::ConvertSpec& spec);

/// router.score of a conversion; softmax where the spec is of a version that knew no other.
std::string router_score(const v1::ConvertSpec& spec);

}  // namespace moe
