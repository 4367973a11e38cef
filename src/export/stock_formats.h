#pragma once

#include <string>

#include "export/export_formats.h"

namespace moe {

/// A MoE architecture of stock clients, stored as its layout says (model/stock/stock_layouts.h): which models it holds
/// exactly, and for which clients. The table of docs/export.md in code.
ExportFormat stock_format(const std::string& layout);

}  // namespace moe
