#include "common/utc_time.h"

#include <ctime>

namespace moe {
namespace {

std::string formatted(std::time_t time, const char* format) {
  std::tm parts{};
  char text[64];
  if (gmtime_r(&time, &parts) == nullptr) return "";
  return {text, std::strftime(text, sizeof text, format, &parts)};
}

}  // namespace

std::string utc_now() {
  return formatted(std::time(nullptr), "%Y-%m-%dT%H:%M:%SZ");
}

std::string utc_text(int64_t seconds_since_1970) {
  return formatted(static_cast<std::time_t>(seconds_since_1970), "%Y-%m-%d %H:%M:%S UTC");
}

}  // namespace moe
