#include "worker/stage_inputs.h"

#include <set>
#include <vector>

#include "checkpoint/conversion_files.h"
#include "checkpoint/model_directory.h"
#include "checkpoint/weight_file_names.h"
#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "pipeline/inputs.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// Weights and config.json, and what stands beside them and decides what a text means: tokenizer, special tokens, chat
/// template. What our own writers add about a model is no part of what it is.
std::string digest_of_model(const fs::path& folder) {
  static const std::set<std::string> kinds{".json", ".jinja", ".model"};
  static const std::set<std::string> aside{"config.json", kWeightsIndex, kConversionReport, "MANIFEST.json",
                                           "STAGE.json"};
  const ModelDirectory model(folder);
  std::set<fs::path> companions;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const fs::path& file = entry.path();
    const bool is_known =
        kinds.contains(file.extension()) && !aside.contains(file.filename()) && file.filename().string().front() != '.';
    if (is_known && entry.is_regular_file()) companions.insert(file);
  }
  std::string text = model.digest();
  for (const fs::path& file : companions) text += concat("\n", file.filename().string(), " ", xxh3_hex_of_file(file));
  return xxh3_hex(text);
}

}  // namespace

void require_recorded(const Configuration& configuration, const std::map<std::string, std::string>& read) {
  std::string changed;
  visit_contents(configuration.stage, [&](const std::string& field, const std::string& value, bool is_file) {
    const auto recorded = configuration.inputs.find(field);
    const auto found = read.find(value);
    if (!is_file || recorded == configuration.inputs.end() || found == read.end() || recorded->second == found->second)
      return;
    changed += concat("\n  ", field, ": file ", value, " held ", recorded->second, " (XXH3) and holds ", found->second);
  });
  if (changed.empty()) return;
  throw_agreed<InvalidArgument>(
      concat("stage ", configuration.stage.name(),
             ": data changed between the start of the run and the moment it was read:", changed,
             "\nNothing was made of it. Put back what it held, or start again: then what it holds now counts, and a "
             "training that has checkpoints of what it held stops and asks"));
}

StageInputs::StageInputs(const v1::PipelineSpec& effective) {
  std::set<std::string> stage_outputs;
  for (const auto& [name, input] : effective.inputs()) input_paths_[name] = input.path();
  for (const v1::Stage& stage : effective.stages()) {
    for (const StageInput& input : inputs_of(stage)) {
      if (input.is_model && stage_outputs.contains(input.value)) continue;
      const std::string path = input.is_model ? model_path(input.value).string() : input.value;
      if (!file_digests_.contains(path))
        file_digests_[path] = input.is_model ? digest_of_model(path) : xxh3_hex_of_file(path);
    }
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

Configuration StageInputs::configuration_of(const v1::Stage& stage) const {
  Configuration configuration{stage, {}};
  visit_contents(stage, [&](const std::string& path, const std::string& value, bool is_file) {
    configuration.inputs[path] = is_file ? file_digests_.at(value) : model_digest(value);
  });
  return configuration;
}

}  // namespace moe
