#include "common/json_lines.h"

#include <fstream>
#include <string>
#include <utility>

namespace moe {

std::vector<nlohmann::json> read_json_lines(const std::filesystem::path& path) {
  std::vector<nlohmann::json> lines;
  for_each_json_line(path, [&lines](nlohmann::json&& line) { lines.push_back(std::move(line)); });
  return lines;
}

void for_each_json_line(const std::filesystem::path& path, const std::function<void(nlohmann::json&& line)>& visit) {
  std::ifstream in(path);
  for (std::string text; std::getline(in, text);) {
    nlohmann::json line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (line.is_object()) visit(std::move(line));
  }
}

}  // namespace moe
