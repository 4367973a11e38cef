#include "common/layer_ranges.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <string_view>

#include "common/error.h"

namespace moe {
namespace {

constexpr int64_t kOpenEnd = std::numeric_limits<int64_t>::max();

struct LayerRange {
  int64_t first = 0;
  int64_t last = 0;  ///< included; kOpenEnd: that of the model
};

std::optional<int64_t> layer_number(std::string_view text) {
  const bool has_digits_only = std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  int64_t number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (!has_digits_only || error != std::errc() || stop != text.data() + text.size()) return std::nullopt;
  return number;
}

/// Nothing if it is none.
std::optional<LayerRange> parse_layer_range(std::string_view item) {
  const size_t dash = item.find('-');
  const std::optional<int64_t> first = layer_number(item.substr(0, dash));
  if (!first) return std::nullopt;
  if (dash == std::string_view::npos) return LayerRange{*first, *first};
  const std::string_view end = item.substr(dash + 1);
  if (end.empty()) return LayerRange{*first, kOpenEnd};
  const std::optional<int64_t> last = layer_number(end);
  if (!last) return std::nullopt;
  return LayerRange{*first, *last};
}

}  // namespace

std::vector<LayerRangeProblem> layer_range_problems(const std::vector<std::string>& items) {
  std::vector<LayerRangeProblem> problems;
  std::vector<LayerRange> ranges;  // of the items before
  for (size_t i = 0; i < items.size(); ++i) {
    const std::optional<LayerRange> range = parse_layer_range(items[i]);
    // One that is none overlaps with nothing.
    ranges.push_back(range.value_or(LayerRange{1, 0}));
    if (!range) {
      problems.push_back({i, concat("'", excerpt(items[i]),
                                    "' is no layer and no range of layers; write a number from 0 on, FIRST-LAST, or "
                                    "FIRST- for all from there on")});
    } else if (range->first > range->last) {
      problems.push_back({i, concat("'", items[i], "' ends before it begins; write the lower layer first")});
    } else {
      for (size_t before = 0; before < i; ++before) {
        if (std::max(range->first, ranges[before].first) > std::min(range->last, ranges[before].last)) continue;
        problems.push_back({i, concat("'", items[i], "' names layer ", std::max(range->first, ranges[before].first),
                                      ", which '", items[before], "' has already; name each layer once")});
        break;
      }
    }
  }
  return problems;
}

std::vector<bool> chosen_layers(const std::vector<std::string>& items, int64_t layers, const std::string& field) {
  if (const auto problems = layer_range_problems(items); !problems.empty())
    throw InvalidArgument(concat(field, ": ", problems.front().message));
  std::vector<bool> chosen(layers, items.empty());
  for (const std::string& item : items) {
    const LayerRange range = *parse_layer_range(item);
    const int64_t last = range.last == kOpenEnd ? std::max(range.first, layers - 1) : range.last;
    if (last >= layers) {
      throw InvalidArgument(
          concat(field, ": '", item, "' names layer ", last, ", and the model has layers 0 to ", layers - 1));
    }
    std::fill(chosen.begin() + range.first, chosen.begin() + last + 1, true);
  }
  return chosen;
}

}  // namespace moe
