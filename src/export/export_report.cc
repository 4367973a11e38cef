#include "export/export_report.h"

#include <algorithm>

#include "common/error.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr double kBytesPerMegabyte = 1e6;

std::string padded(const std::string& text, size_t width) {
  return text + std::string(width > text.size() ? width - text.size() : 0, ' ');
}

std::string joined(const json& texts) {
  std::string all;
  for (const json& text : texts) all += (all.empty() ? "" : "; ") + text.get<std::string>();
  return all;
}

/// Clients for which the export is not exact are a warning: they load it and give other numbers.
json warnings_of(const ExportPlan& plan) {
  json warnings = json::array();
  for (const ClientNote& client : plan.clients) {
    if (!client.is_exact) warnings.push_back(concat("not exact in ", client.client, ": ", client.note));
  }
  return warnings;
}

}  // namespace

json export_report(const ExportPlan& plan, const ModelDirectory& source, const v1::ExportSpec& spec,
                   const WrittenExport& written) {
  json clients = json::array(), passed_over = json::array(), notes = plan.contents.notes;
  for (const ClientNote& client : plan.clients)
    clients.push_back({{"client", client.client}, {"is_exact", client.is_exact}, {"note", client.note}});
  for (const PassedOver& format : plan.passed_over)
    passed_over.push_back({{"format", format.format}, {"reasons", format.reasons}});
  if (spec.dtype() == "bfloat16" && (source.stored_dtype() == "F32" || source.stored_dtype() == "F64")) {
    notes.push_back(
        concat("weights are ", source.stored_dtype(),
               " and written as BF16: each is rounded once, by at most 2^-8 of itself; dtype float32 keeps them"));
  }
  return {{"format", plan.format},
          {"is_automatic", plan.is_automatic},
          {"source", {{"path", source.path().string()}, {"dtype", source.stored_dtype()}}},
          {"dtype", spec.dtype()},
          {"clients", clients},
          {"passed_over", passed_over},
          {"notes", notes},
          {"warnings", warnings_of(plan)},
          {"expert_values", plan.contents.expert_values},
          {"stored_expert_values", plan.contents.stored_expert_values},
          {"padded_size_ratio", plan.padded_size_ratio},
          {"max_relative_rounding", written.max_relative_rounding},
          {"bytes", written.bytes},
          {"shards", written.shards}};
}

std::string export_text(const json& report) {
  std::string text = concat("format        ", report["format"].get<std::string>(),
                            report["is_automatic"].get<bool>() ? " (exact for the most clients)" : "", "\n");
  text += concat("written       ", report["bytes"].get<double>() / kBytesPerMegabyte, " MB, ",
                 report["shards"].get<int64_t>(), " shards, dtype ", report["dtype"].get<std::string>(), "\n");
  if (report["expert_values"].get<int64_t>() > 0) {
    text += concat("experts       ", report["expert_values"].get<int64_t>(), " values, stored as ",
                   report["stored_expert_values"].get<int64_t>(), " (ratio ", report["padded_size_ratio"].get<double>(),
                   ")\n");
  }
  text += concat("rounding      ", report["max_relative_rounding"].get<double>(), " of a value at most\n");
  size_t widest = std::string("CLIENT").size();
  for (const json& client : report["clients"]) widest = std::max(widest, client["client"].get<std::string>().size());
  text += "\n" + padded("CLIENT", widest) + "  EXACT  NOTE\n";
  for (const json& client : report["clients"]) {
    std::string line = padded(client["client"].get<std::string>(), widest) +
                       (client["is_exact"].get<bool>() ? "  yes    " : "  NO     ") + client["note"].get<std::string>();
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  if (!report["passed_over"].empty()) text += "\npassed over\n";
  for (const json& format : report["passed_over"]) {
    const std::string reasons = joined(format["reasons"]);
    text += concat("  ", format["format"].get<std::string>(), ": ", reasons.empty() ? "exact too" : reasons, "\n");
  }
  for (const json& note : report["notes"]) text += "note: " + note.get<std::string>() + "\n";
  for (const json& warning : report["warnings"]) text += "warning: " + warning.get<std::string>() + "\n";
  return text;
}

}  // namespace moe
