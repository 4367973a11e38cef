#pragma once

#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "export/export_formats.h"
#include "moe/v1/job.pb.h"

namespace moe {

/// A format that was not taken, and why: reasons, or none where another was taken that is exact for more clients, or
/// for as many and stands before it.
struct PassedOver {
  std::string format;
  std::vector<std::string> reasons;
};

/// What will be written: decided from the model's config alone, before anything is.
struct ExportPlan {
  std::string format;  ///< never "auto"
  bool is_automatic = false;
  std::vector<ClientNote> clients;
  std::vector<PassedOver> passed_over;  ///< the stock formats that were not chosen
  ExportContents contents;
  double padded_size_ratio = 1;  ///< stored values of the experts / values that they have
};

/// `spec` is effective. Throws InvalidArgument that lists every reason where no format, or not the one asked for, holds
/// the model exactly, or where filling experts with zeros makes them more than twice as large and that was not allowed.
ExportPlan plan_export(const ModelDirectory& model, const v1::ExportSpec& spec);

}  // namespace moe
