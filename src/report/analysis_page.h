#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/figure.h"

/// What an analysis of a model looks like: a page, and its drawings as files of their own.
namespace moe {

/// One analysis: what it shows and what is drawn of it.
struct AnalysisSection {
  std::string name;  ///< as a job file names it
  std::string title;
  std::string summary;
  std::vector<std::pair<std::string, std::string>> numbers;  ///< name and value, shown large
  std::vector<Figure> figures;
  /// Of the baseline, drawn beside those of the same name, or behind all.
  std::vector<Figure> of_baseline{};
};

struct AnalysisPage {
  std::string title;
  std::vector<std::pair<std::string, std::string>> facts;  ///< of the model, the text, the baseline
  std::vector<AnalysisSection> sections;
  std::vector<std::pair<std::string, std::string>> passed_over{};  ///< analyses that the model does not allow, and why
};

/// One <svg> element.
std::string render_figure(const Figure& figure);

/// The whole document, self-contained.
std::string render_analysis_page(const AnalysisPage& page);

/// Every drawing of the page as an SVG file's contents, by file name: "routing_load.svg".
std::map<std::string, std::string> analysis_drawings(const AnalysisPage& page);

}  // namespace moe
