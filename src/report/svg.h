#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// A small writer of SVG that escapes everything that it is given. Colours come from the page: text and lines are
/// currentColor, a series is var(--series-N) with a fallback, so that one drawing fits light and dark.
namespace moe {

using SvgAttributes = std::vector<std::pair<std::string_view, std::string>>;

class SvgWriter {
 public:
  /// Opens an <svg> of this size in user units that scales with its container. `label` is read out by screen readers.
  SvgWriter(double width, double height, std::string_view label);

  /// <name attributes/>
  void element(std::string_view name, const SvgAttributes& attributes);
  /// <name attributes><title>title</title></name>: the title is shown on hover.
  void titled_element(std::string_view name, const SvgAttributes& attributes, std::string_view title);
  /// <text> with its anchor ("start", "middle", "end") at (x, y).
  void text(double x, double y, std::string_view anchor, std::string_view content,
            const SvgAttributes& attributes = {});
  void line(double x1, double y1, double x2, double y2, const SvgAttributes& attributes);

  /// Closes the drawing.
  std::string finish();

 private:
  void open(std::string_view name, const SvgAttributes& attributes);

  std::string out_;
};

/// At most two decimals, no exponent, no trailing zeros.
std::string svg_number(double value);

/// The colour of the n-th series.
std::string series_color(size_t series);

/// Rough width of a text in user units at a font size: for layout before any font is known.
double text_width(std::string_view text, double font_size);

}  // namespace moe
