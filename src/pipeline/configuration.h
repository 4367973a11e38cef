#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "moe/v1/pipeline.pb.h"
#include "pipeline/field_effects.h"

/// What work was done with: recorded beside every result and checkpoint, and compared, field by field, with what a run
/// is asked for. docs/resume.md tells it to users.
namespace moe {

struct Configuration {
  v1::Stage stage;                            ///< effective
  std::map<std::string, std::string> inputs;  ///< "train.data.0.path" -> digest of what it names; absent: not known
};

/// {"config": .., "inputs": ..}, to stand among other entries of a record.
nlohmann::json to_json(const Configuration& configuration);
/// From a record that has them. Settings that have moved since are read where they stood, and fields that were not in
/// the schema then have their defaults, which do what was done before there was the field. nullopt: there is no config,
/// or one that this version cannot read.
std::optional<Configuration> configuration_from(const nlohmann::json& record);

/// Calls `visit` for every field that names a file or a model: "train.data.0.path", what stands there, and whether it
/// is a data file.
void visit_contents(const v1::Stage& stage,
                    const std::function<void(const std::string& path, const std::string& value, bool is_file)>& visit);

/// XXH3 over all that decides the result: files and models by what they hold, neither layout nor bookkeeping. `history`
/// says how a result came about that the configuration alone does not give (a training whose steps were raised on the
/// way has another learning rate in its earlier steps); empty, as it mostly is, it changes nothing.
std::string digest_of(const Configuration& configuration, const std::string& history = "");

std::vector<FieldChange> changes(const Configuration& before, const Configuration& now);

/// A finished result stands for the new configuration too.
bool is_same_result(const std::vector<FieldChange>& changes);
/// A checkpoint may be gone on from.
bool may_go_on(const std::vector<FieldChange>& changes);

/// Their texts, joined; an empty text if there are none.
std::string to_text(const std::vector<FieldChange>& changes, const std::string& separator = "; ");

}  // namespace moe
