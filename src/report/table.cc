#include "report/table.h"

#include <algorithm>
#include <numeric>

#include "common/error.h"
#include "report/text.h"

namespace moe {
namespace {

constexpr int kGap = 2;
constexpr int kLeastTextWidth = 6;

std::string padded(const std::string& text, int width, TextTable::Align align) {
  const std::string shown = align == TextTable::Align::kText ? shorten(text, width) : text;
  const std::string padding(std::max(0, width - display_width(shown)), ' ');
  return align == TextTable::Align::kText ? shown + padding : padding + shown;
}

void add_line(std::string& out, std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  out += line;
  out += '\n';
}

}  // namespace

TextTable::TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {
  for (Column& column : columns_) column.title = clean_utf8(column.title);
}

void TextTable::add_row(std::vector<std::string> cells) {
  MOE_CHECK(!cells.empty() && cells.size() <= columns_.size(), cells.size(), " cells in a table of ", columns_.size(),
            " columns");
  cells.resize(columns_.size());
  for (std::string& cell : cells) cell = clean_utf8(cell);
  rows_.push_back(std::move(cells));
}

void TextTable::add_rule() {
  rows_.emplace_back();
}

std::vector<int> TextTable::widths_for(int width) const {
  std::vector<int> widths;
  for (size_t c = 0; c < columns_.size(); ++c) {
    int widest = display_width(columns_[c].title);
    for (const auto& row : rows_) {
      if (!row.empty()) widest = std::max(widest, display_width(row[c]));
    }
    widths.push_back(widest);
  }
  int excess = std::accumulate(widths.begin(), widths.end(), 0) + kGap * (static_cast<int>(widths.size()) - 1) - width;
  // The widest text column gives way first, one column at a time.
  while (excess > 0) {
    int widest = -1;
    for (size_t c = 0; c < columns_.size(); ++c) {
      if (columns_[c].align != Align::kText || widths[c] <= kLeastTextWidth) continue;
      if (widest < 0 || widths[c] > widths[widest]) widest = static_cast<int>(c);
    }
    if (widest < 0) break;
    --widths[widest];
    --excess;
  }
  return widths;
}

std::string TextTable::render(int width) const {
  const std::vector<int> widths = widths_for(width);
  const std::string gap(kGap, ' ');
  std::string header, rule, out;
  for (size_t c = 0; c < columns_.size(); ++c) {
    if (c > 0) {
      header += gap;
      rule += gap;
    }
    header += padded(columns_[c].title, widths[c], columns_[c].align);
    for (int i = 0; i < widths[c]; ++i) rule += "─";
  }
  add_line(out, header);
  add_line(out, rule);
  for (const auto& row : rows_) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      if (c > 0) line += gap;
      line += padded(row[c], widths[c], columns_[c].align);
    }
    add_line(out, row.empty() ? rule : line);
  }
  return out;
}

}  // namespace moe
