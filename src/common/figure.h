#pragma once

#include <string>
#include <vector>

namespace moe {

/// A table of numbers to be drawn: who measures makes it, who draws it (report/figures.h) knows nothing else of what
/// was measured.
struct Figure {
  enum class Form {
    kHeatmap,  ///< a cell a number
    kLines,    ///< a line a row, along the columns
    kScatter,  ///< a point a number, a colour a row
  };
  /// How a heat map colours its numbers.
  enum class Scale {
    kEvenShare,  ///< multiples of an even share: pale at 1, one colour below and another above
    kAmount,     ///< from 0, or the least where that is negative, to the greatest
    kCount,      ///< the same of whole numbers, written as such
    kShare,      ///< 0 to 1
  };

  std::string name{};   ///< of its file, without the ending: "load-books"
  std::string title{};  ///< a few words
  std::string note{};   ///< how to read it, in a sentence
  Form form = Form::kHeatmap;
  Scale scale = Scale::kAmount;
  bool is_log = false;         ///< of lines: the numbers stand on a logarithmic axis, where those above 0 are drawn
  std::string unit{};          ///< of the numbers, as people read it; empty: none
  std::string row_title{};     ///< what a row is: "layer"; of lines it stands in no drawing
  std::string column_title{};  ///< what a column is: "expert"
  std::vector<std::string> rows{};
  std::vector<std::string> columns{};         ///< of lines numbers, such as layers
  std::vector<std::vector<double>> values{};  ///< [rows][columns]; NaN, or a row that ends early: nothing to draw
  std::vector<std::vector<double>> x{};       ///< of points, whose `values` are their y and which have no columns
};

}  // namespace moe
