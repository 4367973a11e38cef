#pragma once

#include <string>
#include <vector>

namespace moe {

/// A table for a terminal: a header, a rule, rows. Numbers stand at the right of their columns, text at the left. Cells
/// may hold any bytes; they are shown as clean UTF-8 on one line.
class TextTable {
 public:
  enum class Align { kText, kNumber };
  struct Column {
    std::string title;
    Align align = Align::kText;
  };

  explicit TextTable(std::vector<Column> columns);

  /// Missing cells are empty, surplus ones are an error of the caller (Internal).
  void add_row(std::vector<std::string> cells);
  /// A rule between the rows before and after.
  void add_rule();

  /// Lines of at most `width` columns as far as shortening the text columns (to 6 at the least) can make it so; numbers
  /// are never cut. Every line ends with a newline, none with a space.
  std::string render(int width) const;

 private:
  std::vector<int> widths_for(int width) const;

  std::vector<Column> columns_;
  // An empty row is a rule.
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace moe
