#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

/// One logger for every program, on stderr; spdlog stays behind it. A message is an event with fields:
/// `event=checkpoint_saved step=200 bytes=1893402 seconds=0.8`; whatever it quotes, it is one line, UTF-8 and bounded
/// (common/printable.h). Safe to call from any thread.
namespace moe {

enum class LogLevel { kInfo, kWarning, kError };

/// Stamps every later line with this rank, and lets ranks other than 0 log warnings and errors only.
void set_log_rank(int rank);

/// Least level that is printed (default kInfo).
void set_log_level(LogLevel level);

/// While it lives, lines of at least `level` are also appended to a file. Several processes may append to one. Throws
/// StorageError.
class LogFile {
 public:
  LogFile(const std::filesystem::path& path, LogLevel level);
  ~LogFile();
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;

 private:
  struct Sink;
  std::shared_ptr<Sink> sink_;
};

void log(LogLevel level, std::string_view event);
/// A warning about what every rank finds alike: rank 0 says it for all.
void log_shared_warning(std::string_view event);
inline void log_info(std::string_view event) {
  log(LogLevel::kInfo, event);
}
inline void log_warning(std::string_view event) {
  log(LogLevel::kWarning, event);
}
inline void log_error(std::string_view event) {
  log(LogLevel::kError, event);
}

}  // namespace moe
