#include "cli/progress_line.h"

#include <algorithm>
#include <ostream>

#include "report/text.h"

namespace moe {
namespace {

constexpr auto kQuietPeriod = std::chrono::seconds(5);

}  // namespace

ProgressLine::ProgressLine(std::ostream& err, bool is_terminal) : err_(err), is_terminal_(is_terminal) {}

ProgressLine::~ProgressLine() {
  end();
}

void ProgressLine::end() {
  if (drawn_width_ > 0) err_ << '\r' << std::string(drawn_width_, ' ') << '\r' << std::flush;
  drawn_width_ = 0;
}

void ProgressLine::show(const std::string& what, const std::string& text, int64_t tenth) {
  const auto now = Clock::now();
  const std::string line = what + "  " + text;
  const bool is_new = what != what_ || tenth != tenth_ || (text != text_ && now - last_ >= kQuietPeriod);
  if (!is_terminal_ && !is_new) return;
  what_ = what;
  text_ = text;
  tenth_ = tenth;
  last_ = now;
  if (is_terminal_) {
    const int width = display_width(line);
    err_ << '\r' << line << std::string(std::max(0, drawn_width_ - width), ' ') << std::flush;
    drawn_width_ = width;
  } else {
    err_ << line << std::endl;
  }
}

void ProgressLine::message(const std::string& text) {
  end();
  err_ << text << std::endl;
}

}  // namespace moe
