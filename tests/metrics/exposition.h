#pragma once

#include <map>
#include <set>
#include <string>

/// The Prometheus text format read back, for tests: an independent check of what a page says. Throws on a line it
/// cannot read and on a series that stands twice.
namespace moe::testing {

struct Exposition {
  std::map<std::string, std::string> types;  ///< family name -> counter, gauge, histogram
  std::map<std::string, std::string> help;
  std::map<std::string, double> samples;  ///< `name{label="value",...}` as printed -> value

  /// Value of a sample; throws, with what there is of that name, if it is absent.
  double at(const std::string& series) const;
  bool has(const std::string& series) const { return samples.contains(series); }
  /// Family names without process_*.
  std::set<std::string> names() const;
  /// Samples whose text holds this part.
  size_t count(const std::string& part) const;
};

Exposition parse_exposition(const std::string& text);

}  // namespace moe::testing
