#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "export/export_plan.h"

namespace moe {

/// What writing found out.
struct WrittenExport {
  uint64_t bytes = 0;
  size_t shards = 0;
  double max_relative_rounding = 0;  ///< of a value that was written
};

/// export.json: format, clients, what was passed over and why, sizes, roundings, warnings.
nlohmann::json export_report(const ExportPlan& plan, const ModelDirectory& source, const v1::ExportSpec& spec,
                             const WrittenExport& written);

/// The same for a person: a table of clients, then the rest line by line. Ends with a newline.
std::string export_text(const nlohmann::json& report);

}  // namespace moe
