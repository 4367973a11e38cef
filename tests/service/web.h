#pragma once

#include <gtest/gtest.h>
#include <httplib.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "service/cluster.h"

/// Pages over HTTP, for the service tests.
namespace moe::testing {

inline httplib::Response fetch(const std::string& base, const std::string& path,
                               const httplib::Params& parameters = {}) {
  httplib::Client client(base);
  client.set_read_timeout(10);
  const httplib::Result result =
      parameters.empty() ? client.Get(path) : client.Get(path, parameters, httplib::Headers{});
  if (!result) throw std::runtime_error(base + path + ": " + httplib::to_string(result.error()));
  return result.value();
}

/// What Prometheus would scrape: the ranks that the coordinator names.
inline nlohmann::json discovered_ranks(const Cluster& cluster) {
  return nlohmann::json::parse(fetch(cluster.http(), "/sd/workers").body);
}

inline bool is_installed(const std::string& program) {
  return std::system(("command -v " + program + " >/dev/null 2>&1").c_str()) == 0;
}

}  // namespace moe::testing
