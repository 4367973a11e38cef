#include "export/export_plan.h"

#include <algorithm>

#include "common/error.h"

namespace moe {
namespace {

constexpr char kAuto[] = "auto";
constexpr double kMaxPaddedSizeRatio = 2.0;
constexpr char kHint[] = "; --format native writes our own directory";

std::string listed(const std::vector<std::string>& reasons, const std::string& indent) {
  std::string text;
  for (const std::string& reason : reasons) text += "\n" + indent + reason;
  return text;
}

[[noreturn]] void refuse_all(const ModelDirectory& model, const std::vector<PassedOver>& passed_over) {
  std::string text = concat("export: no stock architecture holds ", model.path().string(), " exactly", kHint);
  for (const PassedOver& format : passed_over) text += "\n  " + format.format + ":" + listed(format.reasons, "    ");
  throw InvalidArgument(text);
}

int64_t exact_clients(const ExportFormat& format, const ModelConfig& config) {
  const std::vector<ClientNote> clients = format.clients(config);
  return std::count_if(clients.begin(), clients.end(), [](const ClientNote& client) { return client.is_exact; });
}

/// Of the stock formats that hold the model the one that most clients read as it is, the first of those; empty: none
/// holds it.
std::string best_stock_format(const ModelDirectory& model, const v1::ExportSpec& spec) {
  std::string best;
  int64_t most = -1;
  for (const std::string& name : export_formats().names()) {
    const ExportFormat& format = export_formats().at(name);
    if (!format.is_stock || !format.reasons_against(model, spec).empty()) continue;
    const int64_t clients = exact_clients(format, model.config());
    if (clients > most) {
      best = name;
      most = clients;
    }
  }
  return best;
}

/// The stock formats but `chosen` in order, with what speaks against each.
std::vector<PassedOver> other_stock_formats(const ModelDirectory& model, const v1::ExportSpec& spec,
                                            const std::string& chosen) {
  std::vector<PassedOver> passed_over;
  for (const std::string& name : export_formats().names()) {
    const ExportFormat& format = export_formats().at(name);
    if (format.is_stock && name != chosen) passed_over.push_back({name, format.reasons_against(model, spec)});
  }
  return passed_over;
}

}  // namespace

ExportPlan plan_export(const ModelDirectory& model, const v1::ExportSpec& spec) {
  ExportPlan plan;
  plan.is_automatic = spec.format() == kAuto;
  if (plan.is_automatic) {
    plan.format = best_stock_format(model, spec);
  } else {
    plan.format = spec.format();
    const std::vector<std::string> reasons = export_formats().at(plan.format).reasons_against(model, spec);
    if (!reasons.empty()) {
      throw InvalidArgument(concat("export: ", plan.format, " does not hold ", model.path().string(), " exactly", kHint,
                                   listed(reasons, "  ")));
    }
  }
  if (model.config().moe || plan.is_automatic) plan.passed_over = other_stock_formats(model, spec, plan.format);
  if (plan.format.empty()) refuse_all(model, plan.passed_over);
  const ExportFormat& format = export_formats().at(plan.format);
  plan.clients = format.clients(model.config());
  plan.contents = format.contents(model, spec);
  if (plan.contents.expert_values > 0) {
    plan.padded_size_ratio =
        static_cast<double>(plan.contents.stored_expert_values) / static_cast<double>(plan.contents.expert_values);
  }
  if (plan.padded_size_ratio > kMaxPaddedSizeRatio && !spec.allow_padding()) {
    throw InvalidArgument(concat("export: filled with zeros to one width, the experts of ", model.path().string(),
                                 " grow from ", plan.contents.expert_values, " to ", plan.contents.stored_expert_values,
                                 " values (ratio ", plan.padded_size_ratio, ", more than ", kMaxPaddedSizeRatio,
                                 "); --allow-padding writes them all the same", kHint));
  }
  return plan;
}

}  // namespace moe
