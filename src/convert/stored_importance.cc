#include "convert/stored_importance.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "comm/agreement.h"
#include "common/error.h"
#include "common/file_io.h"
#include "common/log.h"

namespace moe {
namespace {

using nlohmann::json;

/// Counts changes of what is summed, as kCalibrationVersion does of rows.
constexpr int kImportanceVersion = 2;

json facts_of(const ImportanceKey& key) {
  return {{"version", kImportanceVersion}, {"model", key.model}, {"groups", key.groups}};
}

std::string part_name(const ImportanceKey& key) {
  return "importance-" + xxh3_hex(facts_of(key).dump());
}

std::string sums_name(size_t layer, const char* what) {
  return concat("layers.", layer, ".", what);
}

CalibrationStore::Entry importance_entry(const std::vector<Importance>& all, const json& identity) {
  CalibrationStore::Entry entry{.facts = {{"of", identity}}, .tensors = {}};
  for (size_t layer = 0; layer < all.size(); ++layer) {
    entry.tensors.emplace_back(sums_name(layer, "scores"), all[layer].scores_GF);
    entry.tensors.emplace_back(sums_name(layer, "tokens"), all[layer].tokens_G);
  }
  json correlations = json::array();  // no number: null
  for (const Importance& layer : all) correlations.push_back(layer.halves_correlation);
  entry.facts["halves_correlation"] = correlations;
  // Of four bytes an element, so behind those of eight.
  json layers_with_rows = json::array();
  for (size_t layer = 0; layer < all.size(); ++layer) {
    if (!all[layer].group_rows_GD.defined()) continue;
    layers_with_rows.push_back(layer);
    entry.tensors.emplace_back(sums_name(layer, "group_rows"), all[layer].group_rows_GD);
  }
  entry.facts["layers_with_group_rows"] = layers_with_rows;
  return entry;
}

std::vector<Importance> importance_of(const CalibrationStore::Entry& entry, int64_t layers) {
  std::vector<Importance> all(layers);
  for (size_t layer = 0; layer < all.size(); ++layer) {
    all[layer].scores_GF = entry.tensor(sums_name(layer, "scores"));
    all[layer].tokens_G = entry.tensor(sums_name(layer, "tokens"));
    if (const json& kept = entry.facts.at("halves_correlation").at(layer); kept.is_number())
      all[layer].halves_correlation = kept.get<double>();
  }
  for (const json& layer : entry.facts.at("layers_with_group_rows"))
    all.at(layer).group_rows_GD = entry.tensor(sums_name(layer, "group_rows"));
  return all;
}

}  // namespace

std::optional<std::vector<Importance>> kept_importance(const CalibrationStore& store, const ImportanceKey& key,
                                                       int64_t layers, Communicator& world) {
  const std::string part = part_name(key);
  const std::optional<CalibrationStore::Entry> kept = store.read(key.calibration, part);
  if (any_rank(world, "importance that is not kept", !kept)) return std::nullopt;
  if (world.rank() == 0)
    log_info(concat("event=calibration_reused calibration=", key.calibration, " part=", part, " groups=\"", key.groups,
                    "\""));
  return importance_of(*kept, layers);
}

void keep_importance(const CalibrationStore& store, const ImportanceKey& key, const std::vector<Importance>& importance,
                     Communicator& world) {
  agree(world, "keep the importance", [&] {
    if (world.rank() == 0) store.write(key.calibration, part_name(key), importance_entry(importance, facts_of(key)));
  });
}

}  // namespace moe
