#pragma once

#include <string>
#include <vector>

namespace moe {

/// Expert load, layer by expert. A cell is the expert's share of its layer's tokens as a multiple of an even share:
/// 1 is even, 0 is a dead expert. Colour leaves the background on both sides of 1, by the logarithm, full at 1/4 and 4;
/// a dead expert has an outline only.
struct LoadHeatmap {
  /// Read out by screen readers.
  std::string label;
  /// Counts or shares by [layer][expert]; every layer is normalised. Layers may differ in their number of experts; one
  /// that has none, a dense one, has no row.
  std::vector<std::vector<double>> load;
  double width = 380;
};

/// One <svg> element with a value legend; each cell says its layer, expert and value on hover.
std::string render_load_heatmap(const LoadHeatmap& heatmap);

/// Each layer's loads as multiples of an even share; zeros for a layer without tokens.
std::vector<double> relative_load(const std::vector<double>& layer);

}  // namespace moe
