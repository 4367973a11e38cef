#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/parameters.h"

namespace moe {

/// XXH3-128 of every parameter's bytes, under a name that exactly the ranks share which hold the same one: its own, and
/// of stacked experts with their global ids. For comm/agreement.h's differences_between_ranks: replicas are made by the
/// same sums in the same order, so they differ only where a machine computed, or kept, something wrong. Reads every
/// weight once.
std::map<std::string, std::string> replica_digests(const std::vector<Parameter>& parameters);

}  // namespace moe
