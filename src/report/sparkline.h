#pragma once

#include <string>
#include <vector>

namespace moe {

/// A curve in one line of text: eight heights of block characters, scaled from the least to the greatest value. More
/// values than columns are averaged in equal groups; a NaN is a blank.
std::string sparkline(const std::vector<double>& values, int width);

}  // namespace moe
