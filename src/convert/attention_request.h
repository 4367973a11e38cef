#pragma once

#include <string>
#include <vector>

#include "convert/converter.h"
#include "convert/request_check.h"
#include "model/attention_experts_config.h"
#include "model/model_config.h"

/// convert.attention of one model: what it asks for, and whether that can be.
namespace moe {

/// What experts of this model's attention have to fulfil, for request_problems().
const std::vector<RequestCheck>& attention_request_checks();

/// What asks for calibration text; empty if nothing does.
std::string attention_text_reader(const v1::AttentionExpertsSpec& spec);

/// The converted model's part of config.json, with output scales of 1. `config`: of the dense model.
AttentionExperts attention_experts_of(const v1::AttentionExpertsSpec& spec, const ModelConfig& config);

}  // namespace moe
