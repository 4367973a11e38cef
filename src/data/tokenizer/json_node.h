#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace moe {

/// A value of a JSON file with the file and the path it stands at, so that whatever is wrong with it is said with both.
/// A view: the document outlives it. Getters throw Corruption that names file, path, value and what was expected.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string path, const std::string& where)
      : value_(&value), path_(std::move(path)), where_(&where) {}

  const nlohmann::json& value() const { return *value_; }
  bool is_null() const { return value_->is_null(); }

  [[noreturn]] void fail(const std::string& what) const;
  /// Of a part of the value that is no node: `name` follows the path.
  [[noreturn]] void fail_at(const std::string& name, const std::string& what) const;
  /// For what the format allows and we do not: InvalidArgument.
  [[noreturn]] void refuse(const std::string& what) const;

  const JsonNode& expect_object() const;
  const JsonNode& expect_array() const;
  const std::string& text() const;
  bool boolean() const;
  /// From 0 to `most`.
  int64_t integer(int64_t most) const;

  /// A member that must be there; a null one counts as there.
  JsonNode at(const char* key) const;
  /// A member, unless it is missing or null.
  std::optional<JsonNode> find(const char* key) const;
  bool boolean(const char* key, bool otherwise) const;
  /// Element i of an array.
  JsonNode at(size_t i) const;
  size_t size() const { return value_->size(); }

 private:
  const nlohmann::json* value_;
  std::string path_;
  const std::string* where_;
};

}  // namespace moe
