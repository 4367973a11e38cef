#pragma once

#include <string>
#include <vector>

#include "export/export_formats.h"

namespace moe {

/// What stock clients make of a model that the stock architecture holds exactly: not each has each architecture as
/// transformers has it. `layout` is a name of stock_traits.h.
std::vector<ClientNote> stock_clients_of(const std::string& layout, const ModelConfig& config);

}  // namespace moe
