#pragma once

#include <cstdint>
#include <string>
#include <string_view>

/// Text for people: widths on a terminal, numbers as one reads them, escaping.
namespace moe {

/// The text as valid UTF-8 on one line: bytes that are no UTF-8 become U+FFFD, line breaks and all else that steers a
/// reader (common/printable.h) spaces.
std::string clean_utf8(std::string_view text);

/// Terminal columns of clean UTF-8: combining marks take none, East Asian wide characters and emoji two.
int display_width(std::string_view text);

/// The text, shortened to at most `width` columns with an ellipsis at its end.
std::string shorten(std::string_view text, int width);

/// Words at most `width` columns wide on each line; every line ends with a newline.
std::string wrapped(const std::string& text, int width);

/// For XML and HTML, in text and in quoted attributes. Line breaks stay, all else that steers a reader goes.
std::string escape_xml(std::string_view text);

/// Fixed number of decimals; "-" for NaN and infinities.
std::string fixed(double value, int decimals);

/// Four significant digits without an exponent where that is short: "0.01563", "2.345", "12.35", "1235".
std::string short_number(double value);

/// Three significant digits or all before the point: "4.22", "20.5", "187".
std::string perplexity_text(double perplexity);

/// 6823424 -> "6.82 M".
std::string count_text(int64_t count);

/// 93.4 -> "1 min 33 s", 3.21 -> "3.2 s".
std::string duration_text(double seconds);

}  // namespace moe
