#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

/// Prometheus's own linter on a page. Debian's package `prometheus` brings it.
namespace moe::testing {

inline bool has_promtool() {
  return std::system("command -v promtool >/dev/null 2>&1") == 0;
}

/// What `promtool check metrics` finds; empty: clean.
inline std::string promtool_complaints(const std::string& page) {
  const std::string stem = ::testing::TempDir() + "moe_promtool_" + std::to_string(getpid());
  std::ofstream(stem + ".in") << page;
  const int status = std::system(("promtool check metrics <" + stem + ".in >" + stem + ".out 2>&1").c_str());
  std::ifstream out(stem + ".out");
  std::string complaints{std::istreambuf_iterator<char>(out), {}};
  if (status != 0) complaints += "promtool ended with status " + std::to_string(status);
  std::remove((stem + ".in").c_str());
  std::remove((stem + ".out").c_str());
  return complaints;
}

}  // namespace moe::testing
