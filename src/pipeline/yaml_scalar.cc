#include "pipeline/yaml_scalar.h"

#include <charconv>
#include <cmath>
#include <string_view>

#include "common/error.h"

namespace moe {
namespace {

template <typename Value>
Scalar<Value> wrong(const YamlNode& node, std::string_view expected, std::string_view hint = "") {
  if (node.kind == YamlNode::Kind::kNull) {
    return {std::nullopt, concat("no value; write ", expected, " or remove the key")};
  }
  return {std::nullopt, concat("expected ", expected, ", found ", describe(node), hint)};
}

// Digits with an optional sign, as from_chars wants them.
std::string_view without_plus(std::string_view text) {
  return text.size() > 1 && text[0] == '+' && text[1] != '-' ? text.substr(1) : text;
}

std::optional<double> to_double(std::string_view text) {
  text = without_plus(text);
  double value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || stop != text.data() + text.size()) return std::nullopt;
  return value;
}

template <typename Integer>
Scalar<Integer> parse_integer(const YamlNode& node, Integer least, Integer greatest) {
  if (node.kind != YamlNode::Kind::kScalar) return wrong<Integer>(node, "a whole number");
  if (!node.is_plain) return wrong<Integer>(node, "a whole number", " in quotes; remove the quotes");
  const std::string_view text = without_plus(node.scalar);
  Integer value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_whole = error != std::errc::invalid_argument && stop == text.data() + text.size();
  const std::optional<double> number = to_double(node.scalar);
  if (is_whole && error == std::errc() && value >= least && value <= greatest) return {value, ""};
  if (is_whole || (number && *number < 0 && *number == std::floor(*number) && least == 0)) {
    return {std::nullopt, concat("out of range (", node.scalar, "); at least ", least, " and at most ", greatest)};
  }
  if (number && *number == std::floor(*number) && std::abs(*number) < 1e15) {
    return wrong<Integer>(node, "a whole number", concat("; write ", static_cast<int64_t>(*number)));
  }
  return wrong<Integer>(node, "a whole number");
}

}  // namespace

Scalar<int64_t> parse_signed(const YamlNode& node, int64_t least, int64_t greatest) {
  return parse_integer<int64_t>(node, least, greatest);
}

Scalar<uint64_t> parse_unsigned(const YamlNode& node, uint64_t greatest) {
  return parse_integer<uint64_t>(node, 0, greatest);
}

Scalar<double> parse_double(const YamlNode& node) {
  if (node.kind != YamlNode::Kind::kScalar) return wrong<double>(node, "a number");
  if (!node.is_plain) return wrong<double>(node, "a number", " in quotes; remove the quotes");
  const std::optional<double> value = to_double(node.scalar);
  if (!value) return wrong<double>(node, "a number");
  if (!std::isfinite(*value)) return wrong<double>(node, "a finite number");
  return {value, ""};
}

Scalar<bool> parse_bool(const YamlNode& node) {
  if (node.kind == YamlNode::Kind::kScalar && node.is_plain) {
    if (node.scalar == "true") return {true, ""};
    if (node.scalar == "false") return {false, ""};
  }
  return wrong<bool>(node, "true or false");
}

Scalar<std::string> parse_string(const YamlNode& node) {
  if (node.kind != YamlNode::Kind::kScalar) return wrong<std::string>(node, "text");
  return {node.scalar, ""};
}

}  // namespace moe
