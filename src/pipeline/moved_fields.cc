#include "pipeline/moved_fields.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/message.h>
#include <google/protobuf/unknown_field_set.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "common/error.h"
#include "pipeline/kinds/kinds.h"
#include "pipeline/spec.h"

namespace moe {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

/// The sections on the way, and the key in the last of them.
struct Place {
  explicit Place(const std::string& dotted) {
    size_t start = 0;
    for (size_t dot = dotted.find('.'); dot != std::string::npos; dot = dotted.find('.', start)) {
      sections.push_back(dotted.substr(start, dot - start));
      start = dot + 1;
    }
    key = dotted.substr(start);
  }

  std::vector<std::string> sections;
  std::string key;
};

void put(nlohmann::json& message, const std::string& to, nlohmann::json value) {
  const Place place(to);
  nlohmann::json* at = &message;
  for (const std::string& name : place.sections) {
    at = &(*at)[name];
    if (!at->is_object() && !at->is_null()) return;  // no record of ours
  }
  (*at)[place.key] = std::move(value);
}

/// A section may bear the name that a list had: then the value tells which of them was written.
bool is_section_now(const std::string& kind, const std::string& key) {
  return v1::Stage::descriptor()->FindFieldByName(kind)->message_type()->FindFieldByName(key) != nullptr;
}

void put(YamlNode& message, const std::string& to, YamlNode value) {
  const Place place(to);
  YamlNode* at = &message;
  for (const std::string& name : place.sections) {
    YamlNode* section = at->find(name);
    if (section == nullptr) {
      section = &at->add(name, value.where);
      section->kind = YamlNode::Kind::kMap;
    }
    if (section->kind != YamlNode::Kind::kMap) return;  // which is a problem of its own
    at = section;
  }
  if (at->find(place.key) == nullptr) at->add(place.key, value.where) = std::move(value);
}

/// `--set convert.calibration.0.path=x` beside a file that has the section.
void name_items_of_list(YamlNode& section, const MovedField& field, const std::string& path, Problems& problems) {
  std::erase_if(section.entries, [&](const auto& entry) {
    const auto& [key, value] = entry;
    const bool is_item = !key.scalar.empty() && key.scalar.find_first_not_of("0123456789") == std::string::npos;
    if (is_item) {
      problems.push_back(
          {value.where, join_path(path, key.scalar),
           concat("items of this list are those of '", field.to, "' now; write ", field.to, ".", key.scalar)});
    }
    return is_item;
  });
}

void move_keys_of_message(YamlNode& message, const std::string& kind, const std::string& path, Problems& problems) {
  std::vector<std::pair<const MovedField*, YamlNode>> moved;
  for (const MovedField& field : kind_named(kind)->moved) {
    const bool is_section = is_section_now(kind, field.from);
    std::erase_if(message.entries, [&](auto& entry) {
      auto& [key, value] = entry;
      if (key.kind != YamlNode::Kind::kScalar || key.scalar != field.from) return false;
      if (is_section && value.kind != YamlNode::Kind::kList) return false;
      problems.push_back(
          {value.where, join_path(path, field.from),
           concat(is_section ? "this list" : concat("'", field.from, "'"), " is now '", field.to, "'; move it there")});
      moved.emplace_back(&field, std::move(value));
      return true;
    });
    YamlNode* section = is_section ? message.find(field.from) : nullptr;
    if (section != nullptr) name_items_of_list(*section, field, join_path(path, field.from), problems);
  }
  for (auto& [field, value] : moved) put(message, field->to, std::move(value));
}

void move_keys_of_stage(YamlNode& stage, const std::string& path, Problems& problems) {
  for (const std::string& kind : job_kinds().names()) {
    if (YamlNode* message = stage.find(kind)) move_keys_of_message(*message, kind, join_path(path, kind), problems);
  }
}

Message& mutable_section(Message& message, const std::string& name) {
  return *message.GetReflection()->MutableMessage(&message, message.GetDescriptor()->FindFieldByName(name));
}

/// Takes the fields of a number out of those that the schema does not know; as they were written, with another number.
std::string take_unknown(UnknownFieldSet& unknown, int number, int number_now) {
  UnknownFieldSet found;
  for (int i = 0; i < unknown.field_count(); ++i) {
    const UnknownField& field = unknown.field(i);
    if (field.number() != number) continue;
    switch (field.type()) {
      case UnknownField::TYPE_VARINT: found.AddVarint(number_now, field.varint()); break;
      case UnknownField::TYPE_FIXED32: found.AddFixed32(number_now, field.fixed32()); break;
      case UnknownField::TYPE_FIXED64: found.AddFixed64(number_now, field.fixed64()); break;
      case UnknownField::TYPE_LENGTH_DELIMITED: found.AddLengthDelimited(number_now, field.length_delimited()); break;
      case UnknownField::TYPE_GROUP: break;  // proto3 has none
    }
  }
  unknown.DeleteByNumber(number);
  std::string bytes;
  MOE_CHECK(found.SerializeToString(&bytes), "a field cannot be written");
  return bytes;
}

}  // namespace

void move_keys(YamlNode& document, YamlNode& job, Problems& problems) {
  move_keys_of_stage(job, "", problems);
  YamlNode* stages = document.find("stages");
  if (stages == nullptr) return;
  const std::vector<std::string> labels = labels_of(*stages);
  for (size_t i = 0; i < labels.size(); ++i)
    move_keys_of_stage(stages->items[i], join_path("stages", labels[i]), problems);
}

std::map<std::string, std::string> move_keys(nlohmann::json& stage) {
  std::map<std::string, std::string> paths;
  for (const std::string& kind : job_kinds().names()) {
    if (!stage.contains(kind) || !stage[kind].is_object()) continue;
    nlohmann::json& message = stage[kind];
    std::vector<std::pair<const MovedField*, nlohmann::json>> moved;
    for (const MovedField& field : kind_named(kind)->moved) {
      const auto found = message.find(field.from);
      if (found == message.end() || (is_section_now(kind, field.from) && !found->is_array())) continue;
      moved.emplace_back(&field, std::move(*found));
      message.erase(found);
    }
    for (auto& [field, value] : moved) {
      put(message, field->to, std::move(value));
      paths[join_path(kind, field->from)] = join_path(kind, field->to);
    }
  }
  return paths;
}

void move_fields(v1::Stage& stage) {
  const JobKind* kind = kind_of(stage);
  if (kind == nullptr || kind->moved.empty()) return;
  Message& message = mutable_section(stage, stage_kind(stage));
  UnknownFieldSet& unknown = *message.GetReflection()->MutableUnknownFields(&message);
  for (const MovedField& field : kind->moved) {
    if (unknown.empty()) return;
    const Place place(field.to);
    Message* at = &message;
    for (const std::string& name : place.sections) at = &mutable_section(*at, name);
    const std::string bytes =
        take_unknown(unknown, field.number, at->GetDescriptor()->FindFieldByName(place.key)->number());
    google::protobuf::io::CodedInputStream stream(reinterpret_cast<const uint8_t*>(bytes.data()),
                                                  static_cast<int>(bytes.size()));
    if (!at->MergeFromCodedStream(&stream)) throw Corruption(concat("the ", field.from, " of a stored job"));
  }
}

}  // namespace moe
