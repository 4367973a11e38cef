#include "common/peak_memory.h"

#include <fstream>
#include <string>

namespace moe {

PeakMemory::PeakMemory() {
  std::ofstream("/proc/self/clear_refs") << "5" << std::flush;  // proc(5): resets the peak
}

std::optional<double> PeakMemory::bytes() const {
  constexpr char kField[] = "VmHWM:";
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(kField)) return std::stod(line.substr(sizeof kField - 1)) * 1024;
  }
  return std::nullopt;
}

}  // namespace moe
