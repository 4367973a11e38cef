#pragma once

#include <string>

#include "convert/converter.h"
#include "model/attention_experts_config.h"
#include "model/model_config.h"

/// convert.attention of one model: what it asks for, and whether that can be.
namespace moe {

/// Refuses experts that cannot be made of this model's attention, before anything is read or written. Throws
/// InvalidArgument with the value and what it may be.
void check_attention_request(const ConvertRequest& request);

/// What asks for calibration text; empty if nothing does.
std::string attention_text_reader(const v1::AttentionExpertsSpec& spec);

/// The converted model's part of config.json, with output scales of 1. `config`: of the dense model.
AttentionExperts attention_experts_of(const v1::AttentionExpertsSpec& spec, const ModelConfig& config);

}  // namespace moe
