#include "report/svg.h"

#include <array>

#include "common/error.h"
#include "report/text.h"

namespace moe {

SvgWriter::SvgWriter(double width, double height, std::string_view label) {
  open("svg", {{"xmlns", "http://www.w3.org/2000/svg"},
               {"viewBox", concat("0 0 ", svg_number(width), " ", svg_number(height))},
               {"role", "img"},
               {"aria-label", std::string(label)},
               {"font-family", "system-ui, sans-serif"},
               {"font-size", "12"},
               {"fill", "currentColor"}});
  out_ += ">\n";
}

void SvgWriter::open(std::string_view name, const SvgAttributes& attributes) {
  out_ += '<';
  out_ += name;
  for (const auto& [key, value] : attributes) {
    out_ += ' ';
    out_ += key;
    out_ += "=\"";
    out_ += escape_xml(value);
    out_ += '"';
  }
}

void SvgWriter::element(std::string_view name, const SvgAttributes& attributes) {
  open(name, attributes);
  out_ += "/>\n";
}

void SvgWriter::titled_element(std::string_view name, const SvgAttributes& attributes, std::string_view title) {
  open(name, attributes);
  out_ += concat("><title>", escape_xml(title), "</title></", name, ">\n");
}

void SvgWriter::text(double x, double y, std::string_view anchor, std::string_view content,
                     const SvgAttributes& attributes) {
  SvgAttributes all{{"x", svg_number(x)}, {"y", svg_number(y)}, {"text-anchor", std::string(anchor)}};
  all.insert(all.end(), attributes.begin(), attributes.end());
  open("text", all);
  out_ += concat(">", escape_xml(content), "</text>\n");
}

void SvgWriter::line(double x1, double y1, double x2, double y2, const SvgAttributes& attributes) {
  SvgAttributes all{{"x1", svg_number(x1)}, {"y1", svg_number(y1)}, {"x2", svg_number(x2)}, {"y2", svg_number(y2)}};
  all.insert(all.end(), attributes.begin(), attributes.end());
  element("line", all);
}

std::string SvgWriter::finish() {
  return out_ + "</svg>\n";
}

std::string svg_number(double value) {
  std::string text = fixed(value, 2);
  MOE_CHECK(text != "-", "a coordinate is not finite");
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string series_color(size_t series) {
  // Okabe and Ito's palette: told apart by people of every colour vision.
  constexpr std::array<const char*, 6> kColors{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};
  const size_t n = series % kColors.size();
  return concat("var(--series-", n + 1, ", ", kColors[n], ")");
}

double text_width(std::string_view text, double font_size) {
  return display_width(text) * font_size * 0.56;
}

}  // namespace moe
