#pragma once

#include <string>
#include <vector>

#include "common/figure.h"

namespace moe {

/// A matrix of numbers, a cell each, coloured as Figure::Scale says. Of multiples of an even share, colour leaves the
/// background on both sides of 1, by the logarithm, full at 1/4 and 4, and what is 0, a dead expert, has an outline
/// only. Rows may differ in length.
struct Heatmap {
  std::string label;  ///< read out by screen readers
  std::string row_title{}, column_title{};
  std::vector<std::string> rows{}, columns{};
  std::vector<std::vector<double>> values{};  ///< [rows][columns]; NaN: no cell
  Figure::Scale scale = Figure::Scale::kEvenShare;
  std::string unit{};  ///< behind the number on hover
  double width = 380;
};

/// One <svg> element with a value legend; each cell says its row, column and value on hover, and shows the value where
/// there is room.
std::string render_heatmap(const Heatmap& heatmap);

/// Expert load, layer by expert: the expert's share of its layer's tokens as a multiple of an even share.
struct LoadHeatmap {
  /// Read out by screen readers.
  std::string label;
  /// Counts or shares by [layer][expert]; every layer is normalised. Layers may differ in their number of experts; one
  /// that has none, a dense one, has no row.
  std::vector<std::vector<double>> load;
  double width = 380;
};

std::string render_load_heatmap(const LoadHeatmap& heatmap);

/// Each layer's loads as multiples of an even share; zeros for a layer without tokens.
std::vector<double> relative_load(const std::vector<double>& layer);

}  // namespace moe
