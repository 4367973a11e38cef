#include "data/tokenizer/json_node.h"

#include "common/error.h"
#include "common/json_text.h"

namespace moe {

void JsonNode::fail(const std::string& what) const {
  throw Corruption(concat(*where_, ": ", path_.empty() ? "the document" : path_, " ", what));
}

void JsonNode::fail_at(const std::string& name, const std::string& what) const {
  throw Corruption(concat(*where_, ": ", path_, name, " ", what));
}

void JsonNode::refuse(const std::string& what) const {
  throw InvalidArgument(concat(*where_, ": ", path_, " ", what));
}

const JsonNode& JsonNode::expect_object() const {
  if (!value_->is_object()) fail(concat("is ", quoted_json(*value_), "; expected an object"));
  return *this;
}

const JsonNode& JsonNode::expect_array() const {
  if (!value_->is_array()) fail(concat("is ", quoted_json(*value_), "; expected a list"));
  return *this;
}

const std::string& JsonNode::text() const {
  if (!value_->is_string()) fail(concat("is ", quoted_json(*value_), "; expected a string"));
  return value_->get_ref<const std::string&>();
}

bool JsonNode::boolean() const {
  if (!value_->is_boolean()) fail(concat("is ", quoted_json(*value_), "; expected true or false"));
  return value_->get<bool>();
}

int64_t JsonNode::integer(int64_t most) const {
  const bool fits = value_->is_number_unsigned() && value_->get<uint64_t>() <= static_cast<uint64_t>(most);
  if (!fits) fail(concat("is ", quoted_json(*value_), "; expected an integer from 0 to ", most));
  return value_->get<int64_t>();
}

JsonNode JsonNode::at(const char* key) const {
  expect_object();
  const auto found = value_->find(key);
  if (found == value_->end()) fail(concat("has no `", key, "`"));
  return {*found, path_.empty() ? key : path_ + "." + key, *where_};
}

std::optional<JsonNode> JsonNode::find(const char* key) const {
  expect_object();
  const auto found = value_->find(key);
  if (found == value_->end() || found->is_null()) return std::nullopt;
  return at(key);
}

bool JsonNode::boolean(const char* key, bool otherwise) const {
  const std::optional<JsonNode> found = find(key);
  return found ? found->boolean() : otherwise;
}

JsonNode JsonNode::at(size_t i) const {
  return {(*value_)[i], path_ + "[" + std::to_string(i) + "]", *where_};
}

}  // namespace moe
