#include "metrics/process_metrics.h"

#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>

namespace moe {
namespace {

/// Field of /proc/self/stat, counted from 1 as proc(5) does; for those after the program's name, which may hold spaces.
std::optional<double> stat_field(int number) {
  std::ifstream file("/proc/self/stat");
  const std::string line{std::istreambuf_iterator<char>(file), {}};
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= number; ++i) {
    if (!(fields >> field)) return std::nullopt;
  }
  return std::stod(field);
}

double ticks_per_second() {
  return static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::optional<double> cpu_seconds() {
  const std::optional<double> user = stat_field(14);
  const std::optional<double> system = stat_field(15);
  if (!user || !system) return std::nullopt;
  return (*user + *system) / ticks_per_second();
}

std::optional<double> resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0;
  int64_t resident = 0;
  if (!(file >> pages >> resident)) return std::nullopt;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

std::optional<double> open_fds() {
  std::error_code error;
  std::filesystem::directory_iterator folder("/proc/self/fd", error);
  if (error) return std::nullopt;
  const auto count = std::distance(begin(folder), end(folder));
  return static_cast<double>(count - 1);  // without the one that lists them
}

double seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace

double process_start_time() {
  const std::optional<double> after_boot = stat_field(22);
  const double now = seconds(CLOCK_REALTIME);
  return after_boot ? now - seconds(CLOCK_BOOTTIME) + *after_boot / ticks_per_second() : now;
}

std::vector<prometheus::MetricFamily> process_metrics(double start_time) {
  using prometheus::MetricType;
  std::vector<prometheus::MetricFamily> families;
  const auto add = [&](const char* name, const char* help, MetricType type, std::optional<double> value) {
    if (!value) return;
    prometheus::ClientMetric metric;
    (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = *value;
    families.push_back({name, help, type, {metric}});
  };
  add("process_cpu_seconds_total", "User and system CPU time of this process.", MetricType::Counter, cpu_seconds());
  add("process_open_fds", "Open file descriptors.", MetricType::Gauge, open_fds());
  add("process_resident_memory_bytes", "Resident memory.", MetricType::Gauge, resident_bytes());
  add("process_start_time_seconds", "Unix time at which this process started.", MetricType::Gauge, start_time);
  return families;
}

}  // namespace moe
