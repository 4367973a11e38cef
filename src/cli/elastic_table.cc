#include "cli/elastic_table.h"

#include <algorithm>
#include <limits>
#include <sstream>
#include <utility>

#include "report/text.h"

namespace moe {
namespace {

constexpr int kLeastWidth = 12;
constexpr int kGap = 2;
constexpr int kAnyWidth = std::numeric_limits<int>::max() / 2;

int widest_line(const std::string& text) {
  std::istringstream lines(text);
  std::string line;
  int widest = 0;
  while (std::getline(lines, line)) widest = std::max(widest, display_width(line));
  return widest;
}

}  // namespace

void ElasticTable::add_row(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::string ElasticTable::render(int width) const {
  const size_t last = columns_.size() - 1;
  TextTable fixed_part({columns_.begin(), columns_.begin() + static_cast<ptrdiff_t>(last)});
  for (const auto& row : rows_) fixed_part.add_row({row.begin(), row.begin() + static_cast<ptrdiff_t>(last)});
  const int left = std::max(kLeastWidth, width - widest_line(fixed_part.render(kAnyWidth)) - kGap);
  TextTable table(columns_);
  for (std::vector<std::string> row : rows_) {
    row[last] = shorten(clean_utf8(row[last]), left);
    table.add_row(std::move(row));
  }
  return table.render(kAnyWidth);
}

}  // namespace moe
