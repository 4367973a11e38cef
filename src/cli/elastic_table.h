#pragma once

#include <string>
#include <utility>
#include <vector>

#include "report/table.h"

namespace moe {

/// A table whose last column alone gives way to the width of a terminal: ids stand before it and can be copied whole.
class ElasticTable {
 public:
  explicit ElasticTable(std::vector<TextTable::Column> columns) : columns_(std::move(columns)) {}

  void add_row(std::vector<std::string> cells);
  std::string render(int width) const;

 private:
  std::vector<TextTable::Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace moe
