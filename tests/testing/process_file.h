#pragma once

#include <fstream>
#include <sstream>
#include <string>

namespace moe::testing {

/// Text of /proc/<process>/<file>; empty, or the part that was still readable, where the process has ended, even while
/// it is read.
inline std::string read_process_file(const std::string& process, const std::string& file) {
  std::ifstream in("/proc/" + process + "/" + file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();  // unlike an istreambuf_iterator, does not throw where reading fails
  return text.str();
}

}  // namespace moe::testing
