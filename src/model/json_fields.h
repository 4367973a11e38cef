#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/json_text.h"

namespace moe {

/// No size in a config is larger: products of two of them fit int64.
constexpr int64_t kLargestSize = int64_t{1} << 31;

/// Reads typed fields of a JSON object; every error names the file, the key and the value that stands there.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) throw InvalidArgument(where_ + ": expected a JSON object");
  }

  /// Absent and null are the same.
  bool has(const std::string& key) const { return object_.contains(key) && !object_[key].is_null(); }

  int64_t integer(const std::string& key, int64_t least = 1) const { return as_integer(key, required(key), least); }
  int64_t integer_or(const std::string& key, int64_t otherwise, int64_t least = 1) const {
    return has(key) ? as_integer(key, object_[key], least) : otherwise;
  }
  double number(const std::string& key) const {
    if (!required(key).is_number()) fail(key, "a number");
    const auto value = object_[key].get<double>();
    if (!std::isfinite(value)) fail(key, "a finite number");
    return value;
  }
  double number_or(const std::string& key, double otherwise) const { return has(key) ? number(key) : otherwise; }
  double positive(const std::string& key) const {
    if (!(number(key) > 0)) fail(key, "a number above 0");
    return number(key);
  }
  double positive_or(const std::string& key, double otherwise) const { return has(key) ? positive(key) : otherwise; }
  bool boolean_or(const std::string& key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!object_[key].is_boolean()) fail(key, "true or false");
    return object_[key].get<bool>();
  }
  std::string text(const std::string& key) const {
    if (!required(key).is_string()) fail(key, "a string");
    return object_[key].get<std::string>();
  }
  std::string text_or(const std::string& key, const std::string& otherwise) const {
    return has(key) ? text(key) : otherwise;
  }

  /// A list of exactly `size` integers.
  std::vector<int64_t> integers(const std::string& key, int64_t size, int64_t least) const {
    std::vector<int64_t> values;
    for (const nlohmann::json& value : list(key, size)) values.push_back(as_integer(key, value, least));
    return values;
  }
  /// A list of exactly `size` entries, each an integer, read as a list of one, or a list of some.
  std::vector<std::vector<int64_t>> integers_or_lists(const std::string& key, int64_t size, int64_t least) const {
    std::vector<std::vector<int64_t>> lists;
    for (const nlohmann::json& entry : list(key, size)) {
      std::vector<int64_t>& values = lists.emplace_back();
      if (entry.is_array() && entry.empty()) fail(key, "no empty list");
      for (const nlohmann::json& value : entry.is_array() ? entry : nlohmann::json::array({entry}))
        values.push_back(as_integer(key, value, least));
    }
    return lists;
  }
  std::vector<double> numbers(const std::string& key, int64_t size) const {
    std::vector<double> values;
    for (const nlohmann::json& value : list(key, size)) {
      if (!value.is_number() || !std::isfinite(value.get<double>())) fail(key, "a list of finite numbers");
      values.push_back(value.get<double>());
    }
    return values;
  }

  std::vector<std::string> texts(const std::string& key, int64_t size) const {
    std::vector<std::string> values;
    for (const nlohmann::json& value : list(key, size)) {
      if (!value.is_string()) fail(key, "a list of strings");
      values.push_back(value.get<std::string>());
    }
    return values;
  }

  /// One token id or a list of them; absent: none.
  std::vector<int64_t> token_ids(const std::string& key) const {
    std::vector<int64_t> ids;
    if (!has(key)) return ids;
    const nlohmann::json& value = object_[key];
    for (const nlohmann::json& id : value.is_array() ? value : nlohmann::json::array({value})) {
      if (!id.is_number_integer()) fail(key, "an integer or a list of integers");
      ids.push_back(id.get<int64_t>());
    }
    return ids;
  }

  const nlohmann::json& required(const std::string& key) const {
    if (!has(key)) throw InvalidArgument(concat(where_, ": `", key, "` is missing"));
    return object_[key];
  }
  [[noreturn]] void fail(const std::string& key, const std::string& expected) const {
    throw InvalidArgument(concat(where_, ": `", key, "` is ", quoted_json(object_[key]), "; expected ", expected));
  }
  const std::string& where() const { return where_; }
  const nlohmann::json& object() const { return object_; }

 private:
  int64_t as_integer(const std::string& key, const nlohmann::json& value, int64_t least) const {
    if (!value.is_number_integer()) fail(key, "an integer");
    if (value.is_number_unsigned() && value.get<uint64_t>() > kLargestSize) fail(key, concat("at most ", kLargestSize));
    const auto number = value.get<int64_t>();
    if (number < least) fail(key, concat("at least ", least));
    return number;
  }
  const nlohmann::json& list(const std::string& key, int64_t size) const {
    const nlohmann::json& value = required(key);
    if (!value.is_array() || static_cast<int64_t>(value.size()) != size)
      fail(key, concat("a list of ", size, " values, one per layer"));
    return value;
  }

  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace moe
