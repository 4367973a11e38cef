#pragma once

#include <functional>
#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"

/// What stages read, as their kinds' rows (kinds/kinds.h) list it.
namespace moe {

/// One model or data file that a stage names.
struct StageInput {
  std::string field;  ///< below the stage: "evaluate.baseline", "convert.ffn.others.0", "train.data.0.path"
  std::string value;  ///< a model (a pipeline input, "<stage>.model" or a folder) or a file; empty where it is missing
  bool is_model = false;
  std::string domain = {};  ///< of a data file: under which its losses are reported
};

/// Models first, the one that the stage works on before the others; none for a gate. An optional one that is not given
/// is left out.
std::vector<StageInput> inputs_of(const v1::Stage& stage);

/// The same in place: what `visit` writes into a value is kept.
void visit_inputs(v1::Stage& stage, const std::function<void(StageInput& input)>& visit);

/// Files that any stage of the pipeline measures models on, each once, in the order of the stages.
std::vector<std::string> evaluation_files(const v1::PipelineSpec& spec);

/// The models alone, as the stage names them.
std::vector<std::string> model_references(const v1::Stage& stage);

}  // namespace moe
