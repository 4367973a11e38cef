#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

namespace moe {

/// The objects of a file with one JSON object per line, such as metrics.jsonl. A last line torn by a kill and
/// everything else that is no object is left out; a file that does not exist has none. The writer may be at work
/// meanwhile.
std::vector<nlohmann::json> read_json_lines(const std::filesystem::path& path);

/// The same one by one, for files that grow with the length of a run.
void for_each_json_line(const std::filesystem::path& path, const std::function<void(nlohmann::json&& line)>& visit);

}  // namespace moe
