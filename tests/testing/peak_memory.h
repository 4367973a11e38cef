#pragma once

#include <fstream>
#include <functional>
#include <string>

/// How much memory a piece of work takes, for tests that promise a bound.
namespace moe::testing {

inline constexpr double kMib = 1024.0 * 1024.0;

/// A field of /proc/self/status ("VmRSS", "VmHWM"), in bytes.
inline double memory_of_process(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field + ":", 0) == 0) return std::stod(line.substr(field.size() + 1)) * 1024;
  }
  return 0;
}

/// How far this process's resident memory, mapped files included, rises above where it stood while `work` runs; -1 if
/// it cannot be told.
inline double peak_growth(const std::function<void()>& work) {
  std::ofstream("/proc/self/clear_refs") << "5" << std::flush;  // VmHWM starts anew
  const double before = memory_of_process("VmRSS");
  if (memory_of_process("VmHWM") > before + 16 * kMib) return -1;
  work();
  return memory_of_process("VmHWM") - before;
}

}  // namespace moe::testing
