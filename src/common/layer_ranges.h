#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// Layers of a model as job files choose them, each once, in any order: "4", "2-5" (both ends included), "8-" (and all
/// after it).
namespace moe {

struct LayerRangeProblem {
  size_t item;          ///< which of the list
  std::string message;  ///< names it
};

/// What is wrong with such a list, whatever model it is for: items that are no number or range, and layers that two
/// items name.
std::vector<LayerRangeProblem> layer_range_problems(const std::vector<std::string>& items);

/// [layers]: whether each is chosen; an empty list chooses all. Throws InvalidArgument, which begins with `field` and
/// names the item: what is wrong with the list, or a layer that the model has not.
std::vector<bool> chosen_layers(const std::vector<std::string>& items, int64_t layers, const std::string& field);

}  // namespace moe
