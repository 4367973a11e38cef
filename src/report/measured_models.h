#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/kinds/kinds.h"
#include "report/pipeline_report.h"

/// What the evaluations of a pipeline say of its models. `records`: the STAGE.json of every finished stage.
namespace moe {

/// The record of a stage, or nullptr.
const nlohmann::json* record_of(const std::vector<nlohmann::json>& records, const std::string& stage);

/// Whether a stage, if it is a job, leaves this.
bool leaves(const v1::Stage& stage, Artifact artifact);

/// Of the perplexity task of an evaluation (or of what one of an older version found, which had no tasks): losses and
/// loads.
const nlohmann::json& perplexity_of(const nlohmann::json& evaluation);

/// "expert_load" or "attention_expert_load" of a record's details, [layer][expert]; empty if there is none.
std::vector<std::vector<double>> load_matrix(const nlohmann::json& details, const char* key);

/// Whether an evaluation found no experts, neither of FFNs nor loads of attention's.
bool is_dense(const ModelReport& model);

/// What an evaluation found of one model, without label and role.
ModelReport model_report(const nlohmann::json& result);

/// The models that evaluations measured, in the order in which stages make them, and not in that in which they were
/// measured.
std::vector<ModelReport> model_reports(const v1::PipelineSpec& spec, const std::vector<nlohmann::json>& records);

}  // namespace moe
