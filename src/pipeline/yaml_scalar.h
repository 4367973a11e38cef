#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "pipeline/yaml_tree.h"

/// Scalars of the types that our schema uses. Stricter than YAML: a number or a truth value is written in one way only,
/// and quoted text is never a number.
namespace moe {

/// A parsed value, or what is wrong with it ("what (value); hint").
template <typename Value>
struct Scalar {
  std::optional<Value> value;
  std::string problem;
};

/// An integer within [least, greatest].
Scalar<int64_t> parse_signed(const YamlNode& node, int64_t least, int64_t greatest);
Scalar<uint64_t> parse_unsigned(const YamlNode& node, uint64_t greatest);
/// A finite number.
Scalar<double> parse_double(const YamlNode& node);
/// true or false.
Scalar<bool> parse_bool(const YamlNode& node);
Scalar<std::string> parse_string(const YamlNode& node);

}  // namespace moe
