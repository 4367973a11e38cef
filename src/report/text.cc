#include "report/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

#include "common/printable.h"

namespace moe {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

// Takes one code point off the front of `text`; a byte that starts no well-formed sequence counts as kReplacement.
char32_t next_code_point(std::string_view& text) {
  const size_t length = utf8_length(text, 0);
  const char32_t value = length > 0 ? code_point_at(text, 0).value : kReplacement;
  text.remove_prefix(std::max<size_t>(length, 1));
  return value;
}

// Columns of one character: the common ranges of Unicode's East Asian Width (UAX 11) and of combining marks.
int width_of(char32_t c) {
  if ((c >= 0x300 && c < 0x370) || (c >= 0x200B && c <= 0x200F) || (c >= 0xFE00 && c <= 0xFE0F)) return 0;
  constexpr std::array<std::pair<char32_t, char32_t>, 11> kWide{{{0x1100, 0x115F},
                                                                 {0x2E80, 0x303E},
                                                                 {0x3041, 0xA4CF},
                                                                 {0xAC00, 0xD7A3},
                                                                 {0xF900, 0xFAFF},
                                                                 {0xFE30, 0xFE6F},
                                                                 {0xFF00, 0xFF60},
                                                                 {0xFFE0, 0xFFE6},
                                                                 {0x1F300, 0x1F64F},
                                                                 {0x1F900, 0x1F9FF},
                                                                 {0x20000, 0x3FFFD}}};
  for (const auto& [first, last] : kWide) {
    if (c >= first && c <= last) return 2;
  }
  return 1;
}

std::string format(const char* pattern, int decimals, double value) {
  std::array<char, 64> buffer{};
  const int length = std::snprintf(buffer.data(), buffer.size(), pattern, decimals, value);
  return length < static_cast<int>(buffer.size()) ? std::string(buffer.data(), length) : "-";
}

}  // namespace

std::string clean_utf8(std::string_view text) {
  std::string clean;
  while (!text.empty()) {
    const char32_t c = next_code_point(text);
    append_utf8(steers_a_reader(c) ? U' ' : c, clean);
  }
  return clean;
}

int display_width(std::string_view text) {
  int width = 0;
  while (!text.empty()) width += width_of(next_code_point(text));
  return width;
}

std::string shorten(std::string_view text, int width) {
  if (display_width(text) <= width) return std::string(text);
  std::string kept;
  int used = 0;
  while (!text.empty()) {
    const char32_t c = next_code_point(text);
    // One column is for the ellipsis.
    if (used + width_of(c) > width - 1) break;
    used += width_of(c);
    append_utf8(c, kept);
  }
  return width > 0 ? kept + "…" : "";
}

std::string escape_xml(std::string_view text) {
  std::string escaped;
  while (!text.empty()) {
    const char32_t c = next_code_point(text);
    switch (c) {
      case U'&': escaped += "&amp;"; break;
      case U'<': escaped += "&lt;"; break;
      case U'>': escaped += "&gt;"; break;
      case U'"': escaped += "&quot;"; break;
      case U'\'': escaped += "&#39;"; break;
      default:
        // XML 1.0 knows no other control characters and no U+FFFE and U+FFFF.
        if (c == U'\n' || c == U'\t' || (!steers_a_reader(c) && c != 0xFFFE && c != 0xFFFF)) append_utf8(c, escaped);
    }
  }
  return escaped;
}

std::string fixed(double value, int decimals) {
  return std::isfinite(value) ? format("%.*f", decimals, value) : "-";
}

std::string short_number(double value) {
  if (!std::isfinite(value)) return "-";
  if (value == 0) return "0";
  const double magnitude = std::floor(std::log10(std::abs(value)));
  if (magnitude < -4 || magnitude > 8) return format("%.*g", 4, value);
  const int decimals = std::max(0, 3 - static_cast<int>(magnitude));
  std::string text = fixed(value, decimals);
  if (text.find('.') != std::string::npos) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  return text;
}

std::string perplexity_text(double perplexity) {
  return fixed(perplexity, perplexity < 10 ? 2 : perplexity < 100 ? 1 : 0);
}

std::string count_text(int64_t count) {
  constexpr std::array<std::pair<double, const char*>, 4> kUnits{{{1e12, " T"}, {1e9, " G"}, {1e6, " M"}, {1e3, " k"}}};
  const double magnitude = std::abs(static_cast<double>(count));
  for (const auto& [unit, name] : kUnits) {
    if (magnitude >= unit) {
      const double scaled = static_cast<double>(count) / unit;
      return fixed(scaled, std::abs(scaled) < 10 ? 2 : std::abs(scaled) < 100 ? 1 : 0) + name;
    }
  }
  return std::to_string(count);
}

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "-";
  if (seconds < 60) return fixed(seconds, seconds < 10 ? 1 : 0) + " s";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return std::to_string(whole / 60) + " min " + std::to_string(whole % 60) + " s";
  return std::to_string(whole / 3600) + " h " + std::to_string(whole % 3600 / 60) + " min";
}

std::string wrapped(const std::string& text, int width) {
  std::string out, line;
  size_t start = 0;
  while (start < text.size()) {
    const size_t end = std::min(text.find(' ', start), text.size());
    const std::string word = text.substr(start, end - start);
    if (!line.empty() && display_width(line) + 1 + display_width(word) > width) {
      out += line;
      out += '\n';
      line.clear();
    }
    if (!line.empty()) line += ' ';
    line += word;
    start = end + 1;
  }
  return out + line + "\n";
}

}  // namespace moe
