#include "common/log.h"

#include <fcntl.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/dist_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>

#include "common/error.h"
#include "common/file_io.h"

namespace moe {
namespace {

constexpr char kPattern[] = "%Y-%m-%dT%H:%M:%S.%e %L ";

/// Standard error with a level of its own, and the files that come and go.
struct Outputs {
  std::shared_ptr<spdlog::sinks::stderr_sink_mt> console = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  std::shared_ptr<spdlog::sinks::dist_sink_mt> files = std::make_shared<spdlog::sinks::dist_sink_mt>();
  spdlog::logger logger{"moe", {console, files}};
  std::string pattern = std::string(kPattern) + "%v";

  Outputs() {
    logger.set_pattern(pattern);
    logger.set_level(spdlog::level::debug);
    logger.flush_on(spdlog::level::debug);
    console->set_level(spdlog::level::info);
  }
};

Outputs& outputs() {
  static Outputs instance;
  return instance;
}

std::atomic<int> log_rank = 0;

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

/// Each line is one write to a file in append mode, so lines of several processes do not mix.
struct LogFile::Sink final : spdlog::sinks::base_sink<std::mutex> {
  explicit Sink(int descriptor_in) : descriptor(descriptor_in) {}
  ~Sink() override { ::close(descriptor); }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    // A full disk must not end a job; its own writes will say so.
    [[maybe_unused]] const ssize_t written = ::write(descriptor, line.data(), line.size());
  }
  void flush_() override {}

 private:
  int descriptor;
};

LogFile::LogFile(const std::filesystem::path& path, LogLevel level) {
  make_directories(path.parent_path());
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor < 0) throw StorageError(concat("cannot write the log ", path.string(), ": ", std::strerror(errno)));
  sink_ = std::make_shared<Sink>(descriptor);
  sink_->set_level(to_spdlog(level));
  sink_->set_pattern(outputs().pattern);
  outputs().files->add_sink(sink_);
}

LogFile::~LogFile() {
  outputs().files->remove_sink(sink_);
}

void set_log_rank(int rank) {
  log_rank = rank;
  Outputs& to = outputs();
  to.pattern = std::string(kPattern) + "rank=" + std::to_string(rank) + " %v";
  to.logger.set_pattern(to.pattern);
  if (rank != 0) set_log_level(LogLevel::kWarning);
}

void log_shared_warning(std::string_view event) {
  if (log_rank == 0) log_warning(event);
}

void set_log_level(LogLevel level) {
  outputs().console->set_level(to_spdlog(level));
}

void log(LogLevel level, std::string_view event) {
  const std::string line = printable(event, kMaxMessage, LineBreaks::kEscaped);
  outputs().logger.log(to_spdlog(level), spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace moe
