#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "common/file_io.h"

/// What a training leaves behind, in a form in which two runs are compared bit for bit.
namespace moe::testing {

/// Loss by step of a finished or interrupted attempt's metrics.jsonl, as it is written there; fails the test on a step
/// that stands twice.
inline std::map<int64_t, std::string> losses_of(const std::filesystem::path& metrics_file) {
  std::map<int64_t, std::string> found;
  std::ifstream in(metrics_file);
  for (std::string line; std::getline(in, line);) {
    const nlohmann::json record = nlohmann::json::parse(line, nullptr, false);
    if (!record.is_object() || !record.contains("step") || !record.contains("loss")) continue;
    const bool is_new = found.emplace(record["step"].get<int64_t>(), record["loss"].dump()).second;
    EXPECT_TRUE(is_new) << "step " << record["step"] << " stands twice in " << metrics_file;
  }
  return found;
}

/// XXH3 of each weight file of a model directory, by name.
inline std::map<std::string, std::string> weights_of(const std::filesystem::path& model) {
  std::map<std::string, std::string> digests;
  for (const auto& entry : std::filesystem::directory_iterator(model)) {
    if (entry.path().extension() == ".safetensors") digests[entry.path().filename()] = xxh3_hex_of_file(entry.path());
  }
  return digests;
}

}  // namespace moe::testing
