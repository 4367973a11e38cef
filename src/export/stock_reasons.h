#pragma once

#include <string>
#include <vector>

#include "checkpoint/model_directory.h"
#include "moe/v1/job.pb.h"

namespace moe {

/// Why the stock architecture does not hold the model exactly, all reasons; empty: it does. `layout` is a name of
/// stock_traits.h.
std::vector<std::string> stock_reasons_against(const std::string& layout, const ModelDirectory& model,
                                               const v1::ExportSpec& spec);

}  // namespace moe
