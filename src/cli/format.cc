#include "cli/format.h"

#include <array>
#include <cctype>
#include <cmath>
#include <ctime>

#include "common/error.h"
#include "pipeline/spec.h"
#include "report/text.h"

namespace moe {
namespace {

std::string without(const std::string& prefix, const std::string& name) {
  return name.compare(0, prefix.size(), prefix) == 0 ? name.substr(prefix.size()) : name;
}

double seconds_of(const google::protobuf::Timestamp& time) {
  return static_cast<double>(time.seconds()) + time.nanos() * 1e-9;
}

std::string formatted(const google::protobuf::Timestamp& time, const char* format) {
  const std::time_t seconds = time.seconds();
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[64];
  return std::string(text, std::strftime(text, sizeof text, format, &parts));
}

}  // namespace

std::string state_text(v1::JobState state) {
  return without("JOB_STATE_", v1::JobState_Name(state));
}

std::string outcome_text(v1::AttemptOutcome outcome) {
  return outcome == v1::ATTEMPT_OUTCOME_UNSPECIFIED ? "-"
                                                    : without("ATTEMPT_OUTCOME_", v1::AttemptOutcome_Name(outcome));
}

bool is_set(const google::protobuf::Timestamp& time) {
  return time.seconds() > 0;
}

std::string time_text(const google::protobuf::Timestamp& time) {
  return is_set(time) ? formatted(time, "%Y-%m-%d %H:%M:%S UTC") : "-";
}

std::string clock_text(const google::protobuf::Timestamp& time) {
  return is_set(time) ? formatted(time, "%H:%M:%S") : "-";
}

std::string age_text(const google::protobuf::Timestamp& time) {
  if (!is_set(time)) return "-";
  std::timespec now{};
  std::timespec_get(&now, TIME_UTC);
  const double age = static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9 - seconds_of(time);
  // Clocks of two machines differ.
  const double days = std::floor(age / 86400);
  return days >= 2 ? concat(days, " d") : duration_text(age < 0 ? 0 : age);
}

std::string span_text(const google::protobuf::Timestamp& from, const google::protobuf::Timestamp& to) {
  return is_set(from) && is_set(to) ? duration_text(seconds_of(to) - seconds_of(from)) : "-";
}

std::string upper_case(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

std::string bytes_text(int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits{"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  return fixed(value, unit == 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2) + " " + kUnits[unit];
}

std::string progress_text(const v1::Progress& progress) {
  std::string text = progress.phase();
  if (progress.target() > 0) {
    text += concat(text.empty() ? "" : " ", progress.unit().empty() ? "step" : progress.unit(), " ", progress.step(),
                   "/", progress.target());
  }
  if (progress.loss() > 0) text += concat("  loss ", fixed(progress.loss(), 4));
  if (progress.tokens_per_second() > 0) text += concat("  ", fixed(progress.tokens_per_second(), 0), " tokens/s");
  return text;
}

std::string kind_text(const v1::Stage& stage) {
  const std::string kind = stage_kind(stage);
  return kind.empty() ? "-" : kind;
}

}  // namespace moe
