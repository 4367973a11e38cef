#include "common/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <string>

namespace moe {
namespace {

constexpr char kPattern[] = "%Y-%m-%dT%H:%M:%S.%e %L ";

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>("moe", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern(std::string(kPattern) + "%v");
    made->set_level(spdlog::level::info);
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

void set_log_rank(int rank) {
  logger().set_pattern(std::string(kPattern) + "rank=" + std::to_string(rank) + " %v");
  if (rank != 0) set_log_level(LogLevel::kWarning);
}

void set_log_level(LogLevel level) { logger().set_level(to_spdlog(level)); }

void log(LogLevel level, std::string_view event) {
  logger().log(to_spdlog(level), spdlog::string_view_t(event.data(), event.size()));
}

}  // namespace moe
