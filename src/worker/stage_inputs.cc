#include "worker/stage_inputs.h"

#include <functional>
#include <set>
#include <vector>

#include "checkpoint/model_directory.h"
#include "common/error.h"
#include "common/file_io.h"
#include "pipeline/defaults.h"
#include "pipeline/spec.h"

namespace moe {

void visit_inputs(const v1::Stage& stage, const std::function<void(const std::string&)>& model,
                  const std::function<void(const std::string&)>& data) {
  const auto all = [&data](const auto& sources) {
    for (const v1::DataSource& source : sources) data(source.path());
  };
  for (const std::string& reference : model_references(stage)) model(reference);
  if (stage.has_convert()) {
    all(stage.convert().calibration());
  } else if (stage.has_train()) {
    all(stage.train().data());
    all(stage.train().validation());
  } else if (stage.has_evaluate()) {
    all(stage.evaluate().data());
  }
}

StageInputs::StageInputs(const v1::PipelineSpec& effective) {
  std::set<std::string> stage_outputs;
  for (const auto& [name, input] : effective.inputs()) input_paths_[name] = input.path();
  for (const v1::Stage& stage : effective.stages()) {
    visit_inputs(
        stage,
        [&](const std::string& reference) {
          if (stage_outputs.contains(reference)) return;
          const std::string path = model_path(reference);
          if (!file_digests_.contains(path)) file_digests_[path] = ModelDirectory(path).digest();
        },
        [&](const std::string& path) {
          if (!file_digests_.contains(path)) file_digests_[path] = xxh3_hex_of_file(path);
        });
    stage_outputs.insert(stage.name() + ".model");
  }
}

void StageInputs::add_output(const std::string& stage, const std::filesystem::path& folder, const std::string& digest) {
  outputs_[stage + ".model"] = {folder, digest};
}

std::filesystem::path StageInputs::model_path(const std::string& reference) const {
  if (const auto output = outputs_.find(reference); output != outputs_.end()) return output->second.folder;
  if (const auto input = input_paths_.find(reference); input != input_paths_.end()) return input->second;
  return reference;
}

std::string StageInputs::model_digest(const std::string& reference) const {
  if (const auto output = outputs_.find(reference); output != outputs_.end()) return output->second.digest;
  return file_digests_.at(model_path(reference).string());
}

std::string StageInputs::digest_of(const v1::Stage& stage) const {
  v1::Stage what = stage;
  what.mutable_gang()->clear_ranks();
  what.mutable_gang()->clear_expert_parallel();
  std::string text = to_json(what);
  visit_inputs(
      stage, [&](const std::string& reference) { text += concat("\n", model_digest(reference)); },
      [&](const std::string& path) { text += concat("\n", file_digests_.at(path)); });
  return xxh3_hex(text);
}

}  // namespace moe
