#include "metrics/exposition.h"

#include <sstream>
#include <stdexcept>

namespace moe::testing {

double Exposition::at(const std::string& series) const {
  const auto found = samples.find(series);
  if (found != samples.end()) return found->second;
  std::string known;
  for (const auto& [name, value] : samples) {
    if (name.starts_with(series.substr(0, series.find('{')))) known += "\n  " + name;
  }
  throw std::runtime_error("no sample " + series + "; of that name there are:" + known);
}

std::set<std::string> Exposition::names() const {
  std::set<std::string> names;
  for (const auto& [name, type] : types) {
    if (!name.starts_with("process_")) names.insert(name);
  }
  return names;
}

size_t Exposition::count(const std::string& part) const {
  size_t count = 0;
  for (const auto& [name, value] : samples) count += name.find(part) != std::string::npos ? 1 : 0;
  return count;
}

Exposition parse_exposition(const std::string& text) {
  Exposition page;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string hash, keyword, name, rest;
    if (line.starts_with("# ")) {
      words >> hash >> keyword >> name;
      std::getline(words >> std::ws, rest);
      auto& kept = keyword == "TYPE" ? page.types : page.help;
      if (!kept.emplace(name, rest).second) throw std::runtime_error("twice: " + line);
      continue;
    }
    const size_t space = line.rfind(' ');
    if (space == std::string::npos) throw std::runtime_error("not a sample: '" + line + "'");
    if (!page.samples.emplace(line.substr(0, space), std::stod(line.substr(space + 1))).second) {
      throw std::runtime_error("twice: " + line);
    }
  }
  return page;
}

}  // namespace moe::testing
