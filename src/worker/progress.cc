#include "worker/progress.h"

#include <unistd.h>

#include <cstdio>
#include <string>

namespace moe {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(200);
constexpr auto kPlainPeriod = std::chrono::seconds(5);

std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

std::string format_duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  char text[64];
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%ld h %02ld min", static_cast<long>(whole / 3600),
                  static_cast<long>(whole % 3600 / 60));
  } else if (whole >= 60) {
    std::snprintf(text, sizeof text, "%ld min %02ld s", static_cast<long>(whole / 60), static_cast<long>(whole % 60));
  } else {
    std::snprintf(text, sizeof text, "%ld s", static_cast<long>(whole));
  }
  return text;
}

ProgressLine::ProgressLine(bool enabled) : enabled_(enabled), terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() {
  clear_line();
}

void ProgressLine::clear_line() {
  if (drawn_width_ == 0) return;
  std::fprintf(stderr, "\r%*s\r", static_cast<int>(drawn_width_), "");
  drawn_width_ = 0;
}

void ProgressLine::update(const ProgressUpdate& update) {
  if (!enabled_ || update.steps <= 0) return;
  const auto now = Clock::now();
  if (update.stage != stage_) {
    stage_ = update.stage;
    stage_started_ = last_drawn_ = now;
    first_step_ = update.step;
    last_tenth_ = -1;
  }
  const int64_t tenth = update.step * 10 / update.steps;
  const bool due = terminal_ ? now - last_drawn_ >= kRedraw || update.step == update.steps
                             : tenth != last_tenth_ || now - last_drawn_ >= kPlainPeriod;
  if (!due) return;
  last_drawn_ = now;
  last_tenth_ = tenth;

  std::string line =
      update.stage + "  " + update.unit + " " + std::to_string(update.step) + "/" + std::to_string(update.steps);
  if (update.loss > 0) line += formatted("  loss %.4f", update.loss);
  if (update.tokens_per_second > 0) line += formatted("  %.0f tokens/s", update.tokens_per_second);
  const double elapsed = std::chrono::duration<double>(now - stage_started_).count();
  const int64_t done = update.step - first_step_;
  if (done > 0 && update.step < update.steps) {
    line += "  ETA " +
            format_duration(elapsed / static_cast<double>(done) * static_cast<double>(update.steps - update.step));
  }
  if (terminal_) {
    const size_t width = line.size();
    std::fprintf(stderr, "\r%s%*s", line.c_str(), drawn_width_ > width ? static_cast<int>(drawn_width_ - width) : 0,
                 "");
    drawn_width_ = width;
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  std::fflush(stderr);
}

void ProgressLine::message(const std::string& text) {
  if (!enabled_) return;
  clear_line();
  std::fprintf(stderr, "%s\n", text.c_str());
  std::fflush(stderr);
}

}  // namespace moe
